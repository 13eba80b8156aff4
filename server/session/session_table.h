// All open sessions, by owner: an id is looked up among the caller's own sessions only, so another
// owner's id is as unknown as one that never was.
#ifndef GMA_SERVER_SESSION_SESSION_TABLE_H_
#define GMA_SERVER_SESSION_SESSION_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
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
#include "server/session/session.h"
#include "server/session/session_id.h"

namespace gma {

// How a session ended: its id is remembered for a while, so that a later use hears why.
enum class SessionEnd { kClosed, kExpired, kLost };

struct EndedSession {
  SessionId id;
  SessionEnd end;
  absl::Duration ended_at, ttl;
};

// Everything of one owner. Owners are the operator's keys: few, and kept for the server's life.
struct Owner {
  std::string name;
  uint32_t number;   // small and unique, for the scheduler
  int32_t rows = 0;  // state rows held, those of private sessions included
  std::map<SessionId, std::unique_ptr<Session>> sessions;
  std::deque<EndedSession> ended;  // oldest first, at most SessionTable::kRememberedEnds
};

// THREADS: engine thread only.
class SessionTable {
 public:
  static constexpr size_t kRememberedEnds = 256;  // an owner

  // `max_rows_per_owner`: quota of state rows, private sessions included. `past`: what each session
  // remembers; private ones what InsertPrivate gives them.
  explicit SessionTable(int32_t max_rows_per_owner, const PastLimits& past = {})
      : max_rows_per_owner_(max_rows_per_owner), past_(past) {}

  // The record of the owner called `name`, made at its first use.
  Owner& OwnerOf(std::string_view name);
  // ERRORS: kResourceExhausted, naming the limit, when the owner may not hold `rows` more.
  absl::Status CheckQuota(const Owner& owner, int32_t rows) const;

  // Adds a session with a new random id. REQUIRES: the quota was checked; row.holds().
  Session& Insert(Owner& owner, StateRow row, absl::Duration ttl, absl::Duration now);
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
  absl::StatusOr<Session*> Find(std::string_view owner, const SessionId& id, absl::Duration now);

  // Ends a session and remembers why; its row goes back at once.
  void Erase(Session& session, SessionEnd end, absl::Duration now);

  // Sessions expire while idle only. Insert leaves a session idle.
  void BeginTurn(Session& session, TurnKind kind, bool new_input);
  void EndTurn(Session& session, absl::Duration now);
  // Erases every session whose idle time has reached its ttl, after calling `expired` with it.
  // Returns how many there were.
  int64_t Expire(absl::Duration now, absl::FunctionRef<void(const Session&)> expired);
  // When the next session expires if nothing happens; InfiniteDuration: never.
  absl::Duration NextExpiry() const;

  // At most `limit` sessions of the owner with ids after `after`, ascending.
  std::vector<const Session*> List(std::string_view owner, const std::optional<SessionId>& after,
                                   int32_t limit);

  int32_t session_count() const { return session_count_; }  // without private ones
  int32_t private_count() const { return private_count_; }
  const CheckpointTotals& checkpoints() const { return checkpoints_; }
  // Calls `visit` with every session that is not private, owner by owner.
  void ForEach(absl::FunctionRef<void(const Session&)> visit) const;

 private:
  using ExpiryKey = std::pair<absl::Duration, uint64_t>;  // when, and the session's number
  static ExpiryKey KeyOf(const Session& session) {
    return {session.idle_since() + session.ttl(), session.number()};
  }

  const int32_t max_rows_per_owner_;
  const PastLimits past_;
  CheckpointTotals checkpoints_;  // of all sessions, which go before it
  std::map<std::string, Owner, std::less<>> owners_;
  std::map<ExpiryKey, Session*> expiry_;  // every idle session
  uint64_t next_number_ = 0;
  int32_t session_count_ = 0, private_count_ = 0;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SESSION_TABLE_H_
