// All open sessions, by owner: an id is looked up among the caller's own sessions only, so another
// owner's id is as unknown as one that never was. Keeps the order in which sessions were used, and
// what they take in each tier.
#ifndef GMA_SERVER_SESSION_SESSION_TABLE_H_
#define GMA_SERVER_SESSION_SESSION_TABLE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/state/state_pool.h"
#include "server/session/owner.h"
#include "server/session/session.h"
#include "server/session/session_id.h"

namespace gma {

struct SessionTableOptions {
  int32_t max_sessions_per_owner = INT32_MAX;  // in all tiers, private ones included
  PastLimits past = {};  // what each session remembers; private ones what InsertPrivate gives them
  int64_t private_tokens = 0;      // token ids that a private one remembers; it has no checkpoints
  int64_t park_bytes = INT64_MAX;  // of parked rows and of all checkpoints, together
  std::function<SessionId()> new_id = SessionId::Random;  // of a session that is opened here
};

// THREADS: engine thread only.
class SessionTable {
 public:
  static constexpr size_t kRememberedEnds = 256;  // an owner

  explicit SessionTable(const SessionTableOptions& options);
  SessionTable(const SessionTable&) = delete;
  SessionTable& operator=(const SessionTable&) = delete;

  // The record of the owner called `name`, made at its first use.
  Owner& OwnerOf(std::string_view name);
  // ERRORS: kResourceExhausted, naming the limit, when the owner may not hold `sessions` more.
  absl::Status CheckQuota(const Owner& owner, int32_t sessions) const;

  // Adds a session with a new id. REQUIRES: the quota was checked; row.holds().
  Session& Insert(Owner& owner, StateRow row, absl::Duration ttl, absl::Duration now);
  // Adds a session of that id to tier kMemory; one that slept has its times.
  // REQUIRES: neither pool nor memory has it; the room for the row was reserved.
  Session& InsertParked(Owner& owner, const SessionId& id, std::shared_ptr<const RowBytes> row,
                        absl::Duration ttl, absl::Duration now);
  // What the session takes in the store, in all.
  void SetStoredBytes(Session& session, int64_t bytes);
  // Adds a session that goes on from where `source` stands, with its past and its ttl.
  // REQUIRES: as for Insert; `row` is a copy of the row of `source`, which is idle.
  Session& InsertFork(const Session& source, StateRow row, absl::Duration now);
  // A session that no id finds, for one request. REQUIRES: as for Insert.
  std::unique_ptr<Session> InsertPrivate(Owner& owner, StateRow row, absl::Duration now,
                                         SessionPast past = {});
  // Ends one; its row goes back at once.
  void ErasePrivate(std::unique_ptr<Session> session);

  // ERRORS: kNotFound for an id that the owner does not have; its message tells a session that
  // expired or was closed, and when. kDataLoss for one whose state was lost in a failed step.
  // kAborted for one that another server has taken over. kUnavailable for one that sleeps.
  absl::StatusOr<Session*> Find(std::string_view owner, const SessionId& id, absl::Duration now);
  // Null: the owner has none in pool or memory; on disk.
  Session* Peek(std::string_view owner, const SessionId& id);
  SleepingSession* PeekSleeping(std::string_view owner, const SessionId& id);
  // How a session ended is remembered, and that it ended for good: one that moved may come back.
  bool RemembersEnd(std::string_view owner, const SessionId& id);

  // Ends a session and remembers why; its row goes back at once.
  void Erase(Session& session, SessionEnd end, absl::Duration now);
  // Forgets a session as if it had never been here.
  void Forget(Session& session);
  void EraseSleeping(Owner& owner, const SessionId& id, SessionEnd end, absl::Duration now);
  // Forgets that a session sleeps: it is back, or was never there.
  void ForgetSleeping(Owner& owner, const SessionId& id);

  // Sessions expire while idle only. Insert leaves a session idle.
  void BeginTurn(Session& session, TurnKind kind, bool new_input);
  void EndTurn(Session& session, absl::Duration now);
  // Erases every session, in any tier, whose idle time has reached its ttl, after calling `expired`
  // with it. Returns how many there were.
  int64_t Expire(absl::Duration now, absl::FunctionRef<void(const ExpiredSession&)> expired);
  // When the next session expires if nothing happens; InfiniteDuration: never.
  absl::Duration NextExpiry() const;

  // At most `limit` sessions of the owner with ids after `after`, ascending, in pool and memory.
  std::vector<const Session*> List(std::string_view owner, const std::optional<SessionId>& after,
                                   int32_t limit);

  // Tiers. A pinned session, and one with an active turn, stays in the pool.
  //
  // The idle session of kPool or kMemory that was used longest ago, other than `except`; null:
  // none.
  Session* LeastUsed(SessionTier tier, const Session* except = nullptr) const;
  // The next after `session` in that order; null: none.
  Session* UsedAfter(const Session& session) const;
  // Counts as used now. REQUIRES: idle.
  void Use(Session& session);
  // REQUIRES: in the pool. A parked session is woken first.
  void Pin(Session& session, bool pinned);
  // To memory. REQUIRES: LeastUsed could name it; the room for `encoded` was reserved.
  void Park(Session& session, std::shared_ptr<const RowBytes> encoded);
  // To the pool, into `row`, which holds what the parked one does. REQUIRES: in memory.
  void Wake(Session& session, StateRow row);
  // To disk: the session ends here, but for its record. REQUIRES: in memory.
  void Sleep(Session& session);

  // Whether `bytes` more of host memory may be taken; automatic checkpoints of the sessions that
  // were used longest ago go for it.
  bool ReserveMemory(size_t bytes);
  int64_t stored_bytes() const;  // of all owners
  // Keeps room for sessions that are on their way here; `bytes` may be negative.
  void HoldMemory(int64_t bytes) { held_bytes_ += bytes; }
  int64_t memory_bytes() const { return parked_bytes_ + checkpoints_.bytes + held_bytes_; }
  int64_t parked_bytes() const { return parked_bytes_; }
  int64_t park_limit() const { return options_.park_bytes; }
  // An automatic checkpoint of where an idle session stands, if there is room for it.
  void KeepAutomatic(Session& session);

  int32_t count(SessionTier tier) const { return counts_[static_cast<size_t>(tier)]; }
  int32_t private_count() const { return private_count_; }
  const CheckpointTotals& checkpoints() const { return checkpoints_; }
  // Calls `visit` with every session of pool and memory that is not private, owner by owner.
  void ForEach(absl::FunctionRef<void(const Session&)> visit) const;
  void ForEachOwner(absl::FunctionRef<void(const Owner&)> visit) const;

 private:
  using ExpiryKey = std::pair<absl::Duration, uint64_t>;  // when, and the session's number
  struct Sleeper {
    Owner* owner;
    SessionId id;
  };
  static ExpiryKey KeyOf(const Session& session) {
    return {session.idle_since() + session.ttl(), session.number()};
  }
  static ExpiryKey KeyOf(const SleepingSession& session) {
    return {session.idle_since + session.ttl, session.number};
  }
  int32_t& CountOf(SessionTier tier) { return counts_[static_cast<size_t>(tier)]; }
  std::map<uint64_t, Session*>& idle(SessionTier tier) { return idle_[static_cast<size_t>(tier)]; }

  Session& Add(Owner& owner, std::unique_ptr<Session> session);
  // In and out of what only idle sessions are in, but for expiry_.
  void Enlist(Session& session);
  void Delist(Session& session);
  void Remove(Session& session);
  void Remember(Owner& owner, const EndedSession& ended);
  static const EndedSession* LastEnd(const Owner& owner, const SessionId& id);

  const SessionTableOptions options_;
  CheckpointTotals checkpoints_;  // of all sessions, which go before it
  std::map<std::string, Owner, std::less<>> owners_;
  std::map<ExpiryKey, Session*> expiry_;       // every idle session
  std::map<ExpiryKey, Sleeper> sleep_expiry_;  // every sleeping one
  // Idle sessions by the order of use: those that may be parked, those in memory.
  std::array<std::map<uint64_t, Session*>, 2> idle_;
  std::map<uint64_t, Session*> automatic_;  // idle ones that may have automatic checkpoints
  uint64_t next_number_ = 0, next_use_ = 1;
  std::array<int32_t, 3> counts_{};
  int32_t private_count_ = 0;
  int64_t parked_bytes_ = 0, held_bytes_ = 0;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SESSION_TABLE_H_
