// What every store has in common: names of sessions, and when one has expired.
#ifndef GMA_SERVER_STORE_STORE_KEY_H_
#define GMA_SERVER_STORE_STORE_KEY_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/store/session_store.h"

namespace gma {

// Replicas that share a store, and one server before and after a restart, tell the time by clocks
// that may differ this much: a session is kept so much longer than its ttl.
inline constexpr absl::Duration kClockSkew = absl::Seconds(60);
// For so long a store still knows that a session expired, and when.
inline constexpr absl::Duration kTombstoneTime = absl::Hours(7 * 24);

// Whether `name` is 32 hex digits in lower case. Names become paths and keys, so nothing else is.
bool IsStoreName(std::string_view name);
// ERRORS: kInvalidArgument for a key that is no pair of such names.
absl::Status CheckStoreKey(const StoreKey& key);
// ERRORS: kInvalidArgument unless `owner` is such a name and `after` too, or empty.
absl::Status CheckStoreListing(std::string_view owner, std::string_view after);
// ERRORS: kInvalidArgument for epoch 0, which nobody holds.
absl::Status CheckStoreWrite(const StoreKey& key, uint64_t epoch);

bool HasExpired(absl::Time saved_at, absl::Duration ttl, absl::Time now);
// The answers of all stores: kNotFound and kAborted.
absl::Status ExpiredError(const StoreKey& key, absl::Time saved_at, absl::Duration ttl);
absl::Status NoSessionError(const StoreKey& key);
absl::Status FencedError(const StoreKey& key, uint64_t held, uint64_t current);

}  // namespace gma

#endif  // GMA_SERVER_STORE_STORE_KEY_H_
