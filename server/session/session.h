// One client's ongoing sequence: its state row, what was fed into it, and the token that is drawn
// but not fed yet.
//
// A token fed into a state cannot be taken out, but a session remembers its last tokens and copies
// of its row, and can be rewound to an earlier state and fed again (session_past.h). So the last
// token of a turn (the last drawn, or the last of an appended input) stays *pending*: it is fed at
// the start of the next turn, and nothing is ever fed twice. A turn that breaks off anywhere leaves
// the token that would have come next pending, so the session goes on from exactly what was fed.
#ifndef GMA_SERVER_SESSION_SESSION_H_
#define GMA_SERVER_SESSION_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "model/state/row_bytes.h"
#include "model/state/row_codec.h"
#include "model/state/state_pool.h"
#include "server/session/session_id.h"
#include "server/session/session_past.h"
#include "server/session/session_phase.h"
#include "server/session/session_point.h"
#include "server/session/session_tier.h"

namespace gma {

struct Owner;

enum class TurnKind {
  kAppend,  // feeds input
  kAnswer,  // feeds and draws; a later chat message has to close it
  kReplay,  // feeds again what a rewound session has been fed before
};

// What the store holds of a session, as the server that has claimed it knows.
struct StoredState {
  uint64_t epoch = 1;           // that the session is written under
  int64_t journaled = 0;        // number of its next journal record
  bool exists = false;          // the store holds something of it
  bool needs_snapshot = false;  // the journal has a hole, or cannot tell what happened
  // It is not what the store is to have: the journal ends in a turn that is to be run again, or a
  // Rewind was cut.
  bool unfinished = false;
  int64_t fed_at_snapshot = 0;  // tokens fed when the last snapshot was taken
  int64_t bytes = 0;            // what it takes there
  absl::Duration journaled_at = -absl::InfiniteDuration();  // the last record, asked for
  uint64_t version = 1;  // rises with each change of what a snapshot holds
  uint64_t saved = 0;    // version of the snapshot that the store has
};

// Times are on Clock::Monotonic(). THREADS: engine thread only.
class Session {
 public:
  // `owner` outlives the session. `number` increases with the order of opening. `row` may hold
  // nothing when Park follows.
  Session(Owner& owner, SessionId id, uint64_t number, StateRow row, absl::Duration ttl,
          absl::Duration now, SessionPast past = {});

  const SessionId& id() const { return id_; }
  Owner& owner() const { return owner_; }
  uint64_t number() const { return number_; }
  StateRow& row() { return row_; }
  const StateRow& row() const { return row_; }  // holds nothing while the session is parked
  SessionTier tier() const { return row_.holds() ? SessionTier::kPool : SessionTier::kMemory; }
  // The row as it lies in host memory. REQUIRES: tier() is kMemory.
  const std::shared_ptr<const RowBytes>& parked() const { return parked_; }
  bool pinned() const { return pinned_; }  // never parked
  StoredState& stored() { return stored_; }
  const StoredState& stored() const { return stored_; }
  SessionPhase phase() const { return phase_; }
  int64_t fed() const { return point_.fed; }  // tokens in the state
  std::optional<int32_t> pending() const { return point_.pending; }
  int64_t context_tokens() const { return point_.context_tokens(); }
  const SessionPoint& point() const { return point_; }
  const SessionPast& past() const { return past_; }
  absl::Duration opened_at() const { return opened_at_; }
  absl::Duration idle_since() const { return idle_since_; }  // while idle
  absl::Duration ttl() const { return ttl_; }

  // The events of a session are numbered from 1 through all its turns.
  int64_t last_sequence() const { return last_sequence_; }
  int64_t TakeSequence() { return ++last_sequence_; }
  bool last_turn_answers() const { return last_turn_answers_; }  // not an Append
  // Chosen by the client for the last turn; empty: none.
  const std::string& turn_key() const { return turn_key_; }
  void set_last_sequence(int64_t number) { last_sequence_ = number; }
  void set_turn_key(std::string key) { turn_key_ = std::move(key); }
  void set_last_turn_answers(bool answers) { last_turn_answers_ = answers; }

  // What a turn feeds: the pending token, what is left to close an open answer, the input. Empty
  // when there is nothing to go on from. `close` is the model's end of an answer; those of its
  // first tokens that the answer ends with already are left out (a chat format often has two:
  // an end token, which an answer that was not cut draws itself, and a line break).
  std::vector<int32_t> TokensToFeed(absl::Span<const int32_t> close,
                                    absl::Span<const int32_t> input) const;

  // A turn begins. `new_input`: it brings input of its own and does not go on with the last answer.
  // REQUIRES: idle.
  void BeginTurn(TurnKind kind, bool new_input);
  // A step fed `tokens`; `next` is the one that comes after them, if it is known.
  // REQUIRES: a turn is active; tokens is not empty.
  void Advance(absl::Span<const int32_t> tokens, std::optional<int32_t> next);
  // A turn that feeds nothing leaves `token` as the one to feed next. REQUIRES: a turn is active.
  void SetPending(int32_t token);
  // A token was drawn after everything was fed. REQUIRES: a turn is active; nothing is pending.
  void Draw(int32_t token);
  // Input enters the active answer behind `unfed` tokens that are still to be fed (those of the
  // turn, or the one that was drawn last). Returns what follows them: the rest of `close`, as
  // TokensToFeed leaves it, and the input. REQUIRES: a turn of kAnswer is active; unfed >= 1.
  std::vector<int32_t> Interject(absl::Span<const int32_t> close, absl::Span<const int32_t> input,
                                 int64_t unfed);
  // The turn ended. REQUIRES: a turn is active.
  void EndTurn(absl::Duration now);

  // When it was opened, and when its last turn ended. REQUIRES: idle; in no table yet.
  void SetTimes(absl::Duration opened_at, absl::Duration idle_since) {
    opened_at_ = opened_at;
    idle_since_ = idle_since;
  }
  // The row goes back to the pool; what it held is `encoded`. REQUIRES: idle.
  void Park(std::shared_ptr<const RowBytes> encoded);
  // Takes `row`, which holds what the parked one did; that one is zeroed and freed once nobody else
  // has it. REQUIRES: parked; row.holds().
  void Wake(StateRow row);

  // Takes the past of `other`, whose row was copied into this one's. REQUIRES: both are idle.
  void ContinueFrom(const Session& other);
  // Stands at `point`, of whose past nothing is known; its row was put there. REQUIRES: idle.
  void StandAt(const SessionPoint& point);
  // Stands at `point` with what `past` remembers. REQUIRES: idle, and new.
  void Restore(const SessionPoint& point, PastImage past);
  // Tokens of its past, `fed` of which are in the row, are to be fed again: the session stands
  // where they end, once a turn of kReplay has fed the rest, as Rewind says. REQUIRES: idle.
  void FeedAgainFrom(int64_t fed);
  // As SessionPast::Keep. REQUIRES: idle.
  absl::StatusOr<const Checkpoint*> KeepCheckpoint(std::string_view name);
  // Keeps an automatic checkpoint; at any time, or only when enough was fed since the last one.
  void KeepAutomatic() { past_.KeepAutomatic(point_, row_.view()); }
  void KeepAutomaticWhenDue();
  // ERRORS: kNotFound for a checkpoint that is not there.
  absl::Status DropCheckpoint(std::string_view name) { return past_.Drop(name); }
  void DropAutomaticCheckpoints() { past_.DropAutomatic(); }
  // Goes the way of `plan`: copies its row and stands there. What is left is to feed plan.replay
  // but for its last token in a turn of kReplay, and SetPending that one; nothing, when it is
  // empty. REQUIRES: idle; `plan` is of past().PlanRewind(target) just now.
  void Rewind(const RewindTarget& target, const RewindPlan& plan);

 private:
  friend class SessionTable;  // keeps pins and the order of use

  void SetPhase(SessionPhase phase);
  // The first effect of a turn on the state decides what the next turn finds.
  void Touch();

  Owner& owner_;
  const SessionId id_;
  const uint64_t number_;
  StateRow row_;
  std::shared_ptr<const RowBytes> parked_;
  const absl::Duration ttl_;
  absl::Duration opened_at_, idle_since_;
  SessionPhase phase_ = SessionPhase::kIdle;
  SessionPoint point_;
  SessionPast past_;
  TurnKind turn_kind_ = TurnKind::kAppend;
  bool turn_new_input_ = false, last_turn_answers_ = false;
  int64_t last_sequence_ = 0;
  std::string turn_key_;
  bool pinned_ = false;
  uint64_t used_ = 0;
  StoredState stored_;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SESSION_H_
