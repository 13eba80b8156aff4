#include "tests/sim/sim_store.h"

#include "absl/strings/str_cat.h"
#include "tests/sim/sim_check.h"

namespace gma::testing {
namespace {

void Trace(const char* what, const StoreKey& key, uint64_t epoch, const absl::Status& status,
           size_t records) {
  if (!sim_trace) return;
  SimTrace(absl::StrCat("store ", key.id.substr(0, 8), " ", what, ", epoch ", epoch, ": ",
                        absl::StatusCodeToString(status.code()), ", ", records, " records"));
}

absl::Status Gone() { return absl::UnavailableError("the store does not answer"); }

}  // namespace

bool SimStoreData::Tainted(const SessionId& id) const {
  const auto risk = risks.find(id.Hex());
  return risk != risks.end() && risk->second == 2;
}

void SimStoreData::Fork(const SessionId& from, const SessionId& to) {
  if (Tainted(from)) risks[to.Hex()] = 2;
  if (Lied(from)) lied[to.Hex()] = true;
}

int64_t SimStoreData::FailedWrites(const SessionId& id) const {
  const auto failed = failed_writes.find(id.Hex());
  return failed == failed_writes.end() ? 0 : failed->second;
}

absl::Status SimStore::Begin(bool takes_space) const {
  if (dead_ || data_.mood == StoreMood::kAway) return Gone();
  if (takes_space && data_.mood == StoreMood::kFull) {
    return absl::ResourceExhaustedError("the store is full");
  }
  return absl::OkStatus();
}

absl::StatusOr<StoredSession> SimStore::Claim(const StoreKey& key) {
  if (absl::Status status = Begin(/*takes_space=*/false); !status.ok()) return status;
  const auto it = data_.sessions.find(key.id);
  // What was not written may have been all there was.
  if (const auto risk = data_.risks.find(key.id); risk != data_.risks.end()) risk->second = 2;
  if (it == data_.sessions.end()) return absl::NotFoundError("the store has no such session");
  SimStoreData::Stored& stored = it->second;
  ++stored.epoch;
  ++data_.claims;
  Trace("claimed", key, stored.epoch, absl::OkStatus(), stored.journal.size());
  if (data_.mood == StoreMood::kLosesAnswers) return Gone();
  StoredSession session{.epoch = stored.epoch,
                        .ttl = stored.ttl,
                        .snapshot = stored.snapshot,
                        .journal = stored.journal};
  const bool lies = static_cast<int64_t>(random_() % 100) < data_.lies_percent;
  if (lies && !session.snapshot.empty() && !session.journal.empty()) {
    session.journal.clear();
    data_.lied[key.id] = true;
    ++data_.lies;
  }
  return session;
}

absl::Status SimStore::Verify(const StoreKey& key, uint64_t epoch) {
  if (absl::Status status = Begin(/*takes_space=*/false); !status.ok()) return status;
  const auto it = data_.sessions.find(key.id);
  if (it == data_.sessions.end()) return absl::NotFoundError("the store has no such session");
  if (it->second.epoch > epoch) return absl::AbortedError("claimed by another server");
  return absl::OkStatus();
}

template <typename Change>
absl::Status SimStore::Write(const char* what, const StoreKey& key, uint64_t epoch,
                             bool takes_space, Change change) {
  absl::Status status = Begin(takes_space);
  const auto it = data_.sessions.find(key.id);
  const bool behind = it != data_.sessions.end() && it->second.epoch > epoch;
  if (status.ok() && behind) {
    ++data_.fenced;
    Trace("fenced", key, epoch, absl::OkStatus(), it->second.journal.size());
    return absl::AbortedError("claimed by another server");
  }
  if (status.ok()) {
    change();
    ++data_.writes;
    if (data_.mood == StoreMood::kLosesAnswers) status = Gone();
  }
  if (!dead_)
    Trace(what, key, epoch, status,
          data_.sessions.contains(key.id) ? data_.sessions[key.id].journal.size() : 0);
  if (!status.ok() && !dead_) {
    ++data_.failures;
    ++data_.failed_writes[key.id];
    // A server that does not hear that the session is another's goes on with it.
    if (!data_.always) data_.risks.try_emplace(key.id, 1);
    if (!data_.always && behind) data_.risks[key.id] = 2;
  }
  return status;
}

absl::Status SimStore::PutSnapshot(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                                   std::string_view snapshot) {
  absl::Status status = Write("snapshot", key, epoch, /*takes_space=*/true, [&] {
    data_.sessions[key.id] = {
        .epoch = epoch, .ttl = ttl, .snapshot = std::string(snapshot), .journal = {}};
  });
  const auto risk = data_.risks.find(key.id);
  if (status.ok() && risk != data_.risks.end() && risk->second == 1) data_.risks.erase(risk);
  return status;
}

absl::Status SimStore::Append(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                              std::string_view record, bool /*sync*/) {
  return Write("record", key, epoch, /*takes_space=*/true, [&] {
    SimStoreData::Stored& stored = data_.sessions[key.id];
    stored.epoch = epoch;
    stored.ttl = ttl;
    stored.journal.emplace_back(record);
  });
}

absl::Status SimStore::Remove(const StoreKey& key, uint64_t epoch) {
  return Write("removed", key, epoch, /*takes_space=*/false, [&] { data_.sessions.erase(key.id); });
}

absl::StatusOr<std::vector<StoredEntry>> SimStore::List(std::string_view /*owner*/,
                                                        std::string_view after, int limit) {
  if (absl::Status status = Begin(/*takes_space=*/false); !status.ok()) return status;
  std::vector<StoredEntry> entries;
  for (const auto& [id, stored] : data_.sessions) {
    if (id <= after || static_cast<int>(entries.size()) == limit) continue;
    entries.push_back({.id = id, .saved_at = {}, .ttl = stored.ttl, .bytes = 0});
  }
  return entries;
}

}  // namespace gma::testing
