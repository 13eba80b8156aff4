// The engine's dealings with the store: sessions that come from it and go to it, and the journal of
// their turns. What it needs of the rest of the engine are its virtual functions.
#ifndef GMA_SERVER_ENGINE_ENGINE_STORE_H_
#define GMA_SERVER_ENGINE_ENGINE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/engine/engine.h"
#include "server/engine/engine_state.h"
#include "server/engine/message_address.h"

namespace gma {

// THREADS: as EngineCore, whose base it is.
class EngineStore : protected EngineState {
 public:
  EngineStore(const EngineStore&) = delete;
  EngineStore& operator=(const EngineStore&) = delete;

  // moving.cc: writes every session to the store, as far as it is not there already, and waits for
  // that. REQUIRES: EngineCore::EndAll was called; there is a store.
  void SaveAll();

 protected:
  using EngineState::EngineState;
  virtual ~EngineStore() = default;

  // Of the rest of the engine, as declared in EngineCore.
  virtual void WaitForRoom(EngineMessage& message) = 0;
  virtual void Dispatch(EngineMessage& message) = 0;
  virtual void Refuse(EngineMessage& message, const absl::Status& status) = 0;
  virtual void EndSession(Session& session, SessionEnd end, const absl::Status& status) = 0;
  virtual SessionSnapshotInfo InfoOf(const Session& session) const = 0;
  virtual void StartTurn(Request& request, Session& session, TurnKind kind, bool new_input) = 0;
  virtual void EnterTurn(Request& request, Session& session) = 0;
  virtual void Fail(Request& request, const absl::Status& status) = 0;

  // waking.cc: sessions that come from the store.
  // The message waits for its session, which is asked for.
  void BeginWaking(EngineMessage& message, const SessionAddress& address);
  void OnClaimed(const Name& name, absl::StatusOr<ClaimedSession> claimed);
  // ERRORS: kResourceExhausted, naming the limit: the owner holds too many, or memory is full.
  absl::Status CheckFits(const Name& name, const ClaimedSession& claimed);
  Session& Restore(const Name& name, ClaimedSession& claimed);
  void EndWaking(const Name& name, const absl::Status& status);
  SessionSnapshotInfo InfoOf(const SessionId& id, const SleepingSession& session) const;

  // ownership.cc: sessions that another server may have claimed meanwhile.
  bool shares_store() const { return keeper_ != nullptr && keeper_->shared(); }
  // Whether the store has to be asked before anything is done with a session that is here.
  bool MustVerify(const Session& session) const;
  // The message waits until it was asked; a session that is none of ours any more is claimed then.
  void BeginVerify(EngineMessage& message, const Session& session);
  void TakeVerdict(const Name& name, uint64_t number, const absl::Status& status);
  void EndVerify(const Name& name, const absl::Status& status);
  // Once a second: ends active turns of sessions that have moved.
  void VerifyActive(absl::Duration now);

  // moving.cc: sessions that go to the store.
  //
  // Moves sessions that were used longest ago from memory to disk, until there is some room.
  void BalanceMemory();
  // ERRORS: as Save.
  absl::Status BeginMove(Session& session);
  // What happens once a snapshot was written, or was not.
  using SavedCallback = absl::AnyInvocable<void(const absl::Status&)>;
  // Asks for a snapshot to be written. `done` may be null, and is not called after an error.
  // REQUIRES: idle. ERRORS: kResourceExhausted by the quota of its owner, named; kUnavailable: the
  // store does not keep up with what it is to write.
  absl::Status Save(Session& session, SavedCallback done);
  void OnSaved(const Name& name, uint64_t number, uint64_t version, int64_t fed,
               const absl::StatusOr<Written>& written);
  // Whether `session`, or a new one of the owner, may take so many bytes in the store.
  absl::Status CheckStoreQuota(const Session& session, int64_t bytes) const;
  absl::Status CheckStoreQuota(const Owner& owner, int64_t bytes) const;
  static constexpr int64_t kLeastStoredBytes = 1024;  // of a snapshot, besides rows and tokens
  int64_t SnapshotBytes(const Session& session) const;
  SessionImage ImageOf(const Session& session) const;
  // The store's copy is not what it should be: it is tried again every second.
  void MarkUnsaved(Session& session);
  void SaveUnsaved(absl::Duration now);
  // The store has refused a write because another server has the session.
  void OnMoved(Session& session);
  absl::Duration StoreLag() const;

  // journal.cc: turns, written down.
  bool journals() const { return keeper_ != nullptr && options_.durability != Durability::kNone; }
  // To be called before the turn changes anything; it is held until it may start.
  // ERRORS: kUnavailable, kResourceExhausted: the turn must not begin.
  absl::Status JournalBegin(Request& request, Session& session, TurnKind kind, bool new_input);
  // `done`, which may be null, is called with what came of it, if the end is to be written at all;
  // returns whether it is.
  bool JournalEnd(Request& request, FinishReason reason, bool failed, SavedCallback done = nullptr);
  // The beginning of a turn or input that has entered it, whichever was asked for last.
  void OnTurnWritten(uint64_t ticket, const Name& name, const absl::StatusOr<Written>& written);
  void Release(Request& request);
  // Notes that turns which outlast half of their session's ttl still run.
  void JournalLongTurns(absl::Duration now);
  bool AppendRecord(Session& session, JournalRecord record, Keeper::Done<Written> done);
  // Counts a record that was written or not; returns the session, if it is still there.
  // With kAlways a record that was not written ends it here.
  Session* OnAppended(const Name& name, const absl::StatusOr<Written>& written);
  // With kAlways, what was not written must not be told, and what was may not be known here: who
  // asks next finds the session as the store has it.
  void LeaveToStore(Session& session, const absl::Status& status);
  // What a session holds has changed by other means than a turn: answers when that is written, so
  // that whoever asks next, after a kill or on another server, finds it. With kInterval also when
  // it could not be written.
  void AnswerSaved(Session& session, SavedCallback answer);
  void JournalOpen(Session& session, SavedCallback answer);

  // recovery.cc: sessions that lived through more than their snapshot tells.
  void Recover(const Name& name, ClaimedSession claimed);
  void OnMessage(RecoverMessage message);
  static void OnMessage(WorkMessage message) { message.run(); }
  void FeedAgain(const Name& name, Session& session, std::vector<int32_t> tokens);
  void RunLastTurn(const Name& name);
  void EndRecovery(const Name& name, const Recovery& recovery);
  // `tokens` enter after `drawn` tokens of the answer, and after the one that is pending.
  void OnInterjection(Request& request, int64_t drawn, absl::Span<const int32_t> tokens);
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_ENGINE_STORE_H_
