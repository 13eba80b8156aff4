#include "server/store/store_key.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace gma {

bool IsStoreName(std::string_view name) {
  return name.size() == 32 && std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

absl::Status CheckStoreListing(std::string_view owner, std::string_view after) {
  if (IsStoreName(owner) && (after.empty() || IsStoreName(after))) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "an owner and a session id in a store are 32 hex digits in lower case each");
}

absl::Status CheckStoreKey(const StoreKey& key) {
  // An empty id is no name, though it may begin a listing.
  return CheckStoreListing(key.owner, key.id.empty() ? "none" : key.id);
}

absl::Status CheckStoreWrite(const StoreKey& key, uint64_t epoch) {
  if (epoch == 0) return absl::InvalidArgumentError("the epoch of a write is 0, must be 1 or more");
  return CheckStoreKey(key);
}

bool HasExpired(absl::Time saved_at, absl::Duration ttl, absl::Time now) {
  return now > saved_at + ttl + kClockSkew;
}

absl::Status ExpiredError(const StoreKey& key, absl::Time saved_at, absl::Duration ttl) {
  return absl::NotFoundError(
      absl::StrCat("session ", key.id, " expired at ",
                   absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", saved_at + ttl, absl::UTCTimeZone()),
                   ", it was idle for ", absl::ToInt64Seconds(ttl), " s"));
}

absl::Status NoSessionError(const StoreKey& key) {
  return absl::NotFoundError(absl::StrCat("no session ", key.id));
}

absl::Status FencedError(const StoreKey& key, uint64_t held, uint64_t current) {
  return absl::AbortedError(absl::StrCat("session ", key.id, " is held under epoch ", current,
                                         " now, this write has epoch ", held));
}

}  // namespace gma
