// Where sealed sessions live outside this process: for each, one snapshot and the journal records
// since. A store sees sealed bytes only; server/session/ makes and opens them.
//
// Whoever wants to write a session claims it first. Each claim raises the session's epoch, and a
// write with an older epoch is refused: so a process that was frozen, while another took over its
// session, can never overwrite what the other wrote.
#ifndef GMA_SERVER_STORE_SESSION_STORE_H_
#define GMA_SERVER_STORE_SESSION_STORE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace gma {

struct StoreKey {
  std::string owner;  // 32 hex digits, a hash of the authenticated owner
  std::string id;     // 32 hex digits
};

struct StoredSession {
  uint64_t epoch = 0;                // of this claim
  absl::Duration ttl;                // of the last write
  std::string snapshot;              // sealed; empty: none was written yet
  std::vector<std::string> journal;  // sealed records since the snapshot, oldest first
};

struct StoredEntry {
  std::string id;
  absl::Time saved_at;
  absl::Duration ttl;
  int64_t bytes;  // of snapshot and journal
};

// ERRORS of all calls: kInvalidArgument for a key that is not hex, or epoch 0; kUnavailable when
// the store cannot be reached or does not answer in time; kResourceExhausted when it is full;
// kInternal with the system's reason otherwise. A call that failed has left a whole state: the last
// snapshot with the records before it, or, where only the answer got lost, what the call would have
// made. THREADS: any, one call a session at a time.
class SessionStore {
 public:
  virtual ~SessionStore() = default;

  // Makes the session the caller's and reads all of it. Nothing written before the claim gets lost;
  // a journal that ends in a torn record loses that record, which was never acknowledged.
  // ERRORS: kNotFound for a session that is not there; its message tells one that expired, and
  // when. kDataLoss when what is stored is damaged.
  virtual absl::StatusOr<StoredSession> Claim(const StoreKey& key) = 0;
  // Whether several servers share the store, so that a session can have been claimed by another one
  // since this one did.
  virtual bool shared() const { return false; }
  // Whether the session is still that of who claimed or made it under `epoch`.
  // ERRORS: kAborted when it has a later epoch; kNotFound when it is not there.
  virtual absl::Status Verify(const StoreKey& /*key*/, uint64_t /*epoch*/) {
    return absl::OkStatus();
  }
  // Replaces the snapshot and empties the journal, in one: readers find the old of both or the new.
  // The first write of a session that is not there makes it, under any epoch >= 1. Durable on
  // return, where the store can be. ERRORS: kAborted when the session has a later epoch.
  virtual absl::Status PutSnapshot(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                                   std::string_view snapshot) = 0;
  // Adds a record to the journal; durable on return when `sync`. ERRORS: as PutSnapshot; kNotFound
  // when the session expired: there is no snapshot to add to, a new one brings it back.
  virtual absl::Status Append(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                              std::string_view record, bool sync) = 0;
  // Makes every record that was appended so far durable.
  virtual absl::Status Sync() = 0;
  // Forgets the session; one that is not there is no error. ERRORS: as PutSnapshot.
  virtual absl::Status Remove(const StoreKey& key, uint64_t epoch) = 0;
  // At most `limit` sessions of an owner with ids after `after` (empty: from the first), ascending.
  virtual absl::StatusOr<std::vector<StoredEntry>> List(std::string_view owner,
                                                        std::string_view after, int limit) = 0;
  // Forgets the content of sessions that were not written for their ttl; to be called every minute.
  // A store that does so by itself does nothing.
  virtual void Expire(absl::Time /*now*/) {}
  // What all sessions take; 0 when the store cannot tell.
  virtual int64_t bytes() const { return 0; }
};

}  // namespace gma

#endif  // GMA_SERVER_STORE_SESSION_STORE_H_
