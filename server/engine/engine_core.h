// The engine's own side: everything that only its thread touches.
#ifndef GMA_SERVER_ENGINE_ENGINE_CORE_H_
#define GMA_SERVER_ENGINE_ENGINE_CORE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "model/decoder/compiled_decoder.h"
#include "model/state/state_pool.h"
#include "server/engine/engine.h"
#include "server/engine/engine_shared.h"
#include "server/engine/keeper.h"
#include "server/engine/message_address.h"
#include "server/engine/recovery.h"
#include "server/engine/request.h"
#include "server/engine/turn_history.h"
#include "server/engine/turn_replays.h"
#include "server/metrics/metrics.h"
#include "server/scheduler/scheduler.h"
#include "server/session/prefix_cache.h"
#include "server/session/session_table.h"

namespace gma {

// THREADS: one at a time; the engine's thread, or whoever calls Engine::Tick.
class EngineCore {
 public:
  // All arguments are borrowed or shared as Engine::Create says.
  EngineCore(const EngineOptions& options, CompiledDecoder& decoder, TokenTextFunction token_text,
             const Clock& clock, Metrics& metrics, std::unique_ptr<StatePool> pool,
             std::shared_ptr<EngineShared> shared, Keeper* keeper);

  // As Engine::Tick.
  bool Tick();
  // When something happens without a message: a deadline or an expiry. InfiniteDuration: never.
  absl::Duration NextTimer() const;
  // Ends everything with kUnavailable, what is still in the mailbox included.
  void EndAll();
  // Writes every session to the store, as far as it is not there already, and waits for that.
  // REQUIRES: EndAll was called; there is a store.
  void SaveAll();
  // Aborts unless every state row belongs to exactly one session, and the counters agree. Looks at
  // every session; each step checks the rows in it by itself.
  void CheckOwnership() const;
  const StatePool& pool() const { return *pool_; }

 private:
  // engine_core.cc: messages, timers, gauges.
  void EndOverdue(absl::Duration now);
  void EndOverdue(Request& request);
  void SweepEnded();
  void UpdateGauges();

  // dispatch.cc: messages that wait until what they are for is at hand.
  void TakeMessages();
  void Dispatch(EngineMessage& message);
  // Makes the session of a message, and the rows that it takes, ready; false: the message was
  // answered, or waits.
  template <typename Message>
  bool Prepare(EngineMessage& posted, const Message& message);
  // There is no row for the message: it waits for one that is on its way, or is refused.
  void WaitForRoom(EngineMessage& message);
  void WaitIn(std::deque<EngineMessage>& messages, EngineMessage& message);
  void Refuse(EngineMessage& message, const absl::Status& status);
  // Those that wait and need not any more.
  void DispatchWaiting();
  void EndOverdueWaiting(absl::Duration now);
  absl::Duration NextWaitingDeadline() const;
  void RefuseWaiting(const absl::Status& status);  // all of them
  // Takes the message of `stream` out of those that wait; null: there is none.
  std::unique_ptr<GenerateMessage> TakeWaiting(const TokenStream* stream);

  // waking.cc: sessions that come from the store.
  using Name = std::pair<std::string, SessionId>;  // owner and id
  struct Waking {
    std::deque<EngineMessage> messages;  // that wait for it
    absl::Duration since;
    bool recovering = false;  // it is here, and catches up
  };
  // The message waits for its session, which is asked for.
  void BeginWaking(EngineMessage& message, const SessionAddress& address);
  void OnClaimed(const Name& name, absl::StatusOr<ClaimedSession> claimed);
  Session& Restore(const Name& name, ClaimedSession& claimed);
  void EndWaking(const Name& name, const absl::Status& status);
  SessionSnapshotInfo InfoOf(const SessionId& id, const SleepingSession& session) const;

  // moving.cc: sessions that go to the store.
  //
  // Moves sessions that were used longest ago from memory to disk, until there is some room.
  void BalanceMemory();
  bool BeginMove(Session& session);
  // What happens once a snapshot was written, or was not.
  using SavedCallback = absl::AnyInvocable<void(const absl::Status&)>;
  // Writes a snapshot; false: it cannot be asked for now. `done` may be null. REQUIRES: idle.
  bool Save(Session& session, SavedCallback done);
  void OnSaved(const Name& name, uint64_t number, uint64_t version, int64_t fed,
               const absl::StatusOr<Written>& written);
  absl::Status CheckStoreQuota(const Session& session, int64_t bytes) const;
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
  void JournalEnd(Request& request, FinishReason reason, bool failed);
  void OnBeginWritten(uint64_t ticket, const Name& name, const absl::StatusOr<Written>& written);
  void Release(Request& request);
  bool AppendRecord(Session& session, JournalRecord record, Keeper::Done<Written> done);
  // Counts a record that was written or not; returns the session, if it is still there.
  Session* OnAppended(const Name& name, const absl::StatusOr<Written>& written);
  // What a session holds has changed by other means than a turn: answers when that is written, as
  // far as the durability asks for it.
  void AnswerSaved(Session& session, SavedCallback answer);
  void JournalOpen(Session& session, SavedCallback answer);

  // recovery.cc: sessions that lived through more than their snapshot tells.
  void Recover(const Name& name, ClaimedSession claimed);
  void OnMessage(RecoverMessage message);
  void OnMessage(WorkMessage message) { message.run(); }
  void FeedAgain(const Name& name, Session& session, std::vector<int32_t> tokens);
  void RunLastTurn(const Name& name);

  // parking.cc: rows between pool and host memory.
  //
  // Whether so many rows are free; parks idle sessions other than `except` for it.
  bool MakeRows(int32_t rows, const Session* except = nullptr);
  bool ParkOne(const Session* except);
  void Park(Session& session);
  // Brings it from memory to the pool; false: there is no room.
  bool Wake(Session& session);
  void OnMessage(PinMessage message);
  void CheckTiers() const;

  // admission.cc: from message to a turn that can be scheduled.
  void OnMessage(GenerateMessage message);
  void OnMessage(AppendMessage message);
  void OnMessage(RewindMessage message);
  void OnMessage(const CancelMessage& message);
  Request& AddRequest(GenerateMessage message);
  static std::unique_ptr<Request> NewAppend(AppendSpec& spec, absl::Duration accepted_at);
  void Admit(std::unique_ptr<Request> request);
  void Admit(Request& request);
  absl::Status AdmitToSession(Request& request);
  absl::Status AdmitPrivate(Request& request);
  absl::Status BeginSessionTurn(Request& request, Session& session);
  void StartTurn(Request& request, Session& session, TurnKind kind, bool new_input);
  // The turn has begun and nothing holds it: what is known goes in, and what needs no step ends.
  void EnterTurn(Request& request, Session& session);
  void BeginHistory(Request& request, Session& session);
  absl::Status BusyError(const Session& session) const;
  absl::Status CheckQuota(const Owner& owner, int32_t rows);
  absl::Status NoRowError();
  Candidate MakeCandidate(const Request& request, int32_t index, Session* session);

  // resume.cc: events of turns, and their readers.
  void OnMessage(const ResumeMessage& message);
  // Numbers an event and keeps it; Emit also gives it to the reader, if that is its next one.
  static void Record(Request& request, StreamEvent& event);
  static void Emit(Request& request, StreamEvent event);
  // Whether so many tokens can be drawn now. A reader that is behind gets the past first.
  bool HasRoom(const Request& request, int64_t tokens) const;
  // The turn is over: its reader gets what it still lacks, then `status`, or Finished.
  void EndReader(Request& request, absl::Status status);
  // The reader is gone, its call ends with `status`: detaches the turn, or fails it.
  void LoseReader(Request& request, const absl::Status& status);
  void Detach(Request& request);
  // `after` nothing: from the beginning of the turn. ERRORS: as Engine::Resume; the stream is open.
  absl::Status ResumeTurn(Session& session, std::shared_ptr<TokenStream> stream,
                          std::optional<int64_t> after, absl::Duration deadline);
  void Attach(Request& request, std::shared_ptr<TokenStream> stream, int64_t after,
              absl::Duration deadline);
  // Gives readers that are behind what there is room for; returns whether there was anything.
  bool PumpReader(Request& request);
  bool PumpReaders();
  static absl::Status CheckAfter(const Request& request, const Session& session);
  // The call of the same key that waits for the session or is active on it.
  Request* FindKey(const Request& request, const Session& session);
  // Whether `request` is the session's last turn, or one that waits, called again: it is ended
  // then, and what it answers through goes to that turn. ERRORS: kInvalidArgument.
  absl::StatusOr<bool> JoinTurn(Request& request, Session& session);
  void AnswerAgain(EngineCallback<SessionSnapshotInfo> done, Request* same, const Session& session);

  // interjection.cc: input while a turn generates.
  void OnMessage(BargeInMessage message);
  // The active answer that is read from spec.turn; null: none.
  Request* AnswerOf(const AppendSpec& spec);
  // Whether the append is input for an active answer; it was answered then.
  bool Interject(AppendMessage& message);
  void EnterInput(Request& request, absl::Span<const int32_t> close,
                  absl::Span<const int32_t> input, std::optional<uint64_t> request_id, bool again);
  // Enters what is due of request.recorded: `again`.
  void EnterRecorded(Request& request);
  // `tokens` enter after `drawn` tokens of the answer, and after the one that is pending.
  void OnInterjection(Request& request, int64_t drawn, absl::Span<const int32_t> tokens);

  // prefix.cc.
  //
  // What a private request remembers.
  SessionPast PrivatePast() const;
  // REQUIRES: nothing was fed to the first candidate's session; its turn has begun.
  void StartFromPrefix(Request& request, absl::Span<const size_t> marks);
  // Keeps the state of `session`, of which all tokens are known, unless one near it was kept.
  void KeepPrefix(Request& request, const Session& session);

  // session_calls.cc.
  void OnMessage(OpenMessage message);
  void OnMessage(GetMessage message);
  void OnMessage(ListMessage message);
  void OnMessage(CloseMessage message);
  absl::StatusOr<Session*> Open(const OpenMessage& message);
  SessionSnapshotInfo InfoOf(const Session& session) const;
  void ExpireSessions(absl::Duration now);

  // past_calls.cc: fork, checkpoint, rewind, export, import.
  void OnMessage(ForkMessage message);
  void OnMessage(CheckpointMessage message);
  void OnMessage(ListCheckpointsMessage message);
  void OnMessage(DeleteCheckpointMessage message);
  void OnMessage(ExportMessage message);
  void OnMessage(ImportMessage message);
  absl::StatusOr<Session*> Import(const ImportMessage& message);
  absl::StatusOr<Session*> Fork(const ForkMessage& message);
  void AnswerInfoSaved(Session& session, EngineCallback<SessionSnapshotInfo> done);
  absl::StatusOr<CheckpointInfo> Keep(const CheckpointMessage& message);
  absl::Status BeginRewind(Request& request, Session& session);
  // As SessionTable::Find, without sessions that have an active turn.
  absl::StatusOr<Session*> FindIdle(const std::string& owner, const SessionId& id);

  // step.cc: plan, run, commit.
  bool RunStep();
  void BuildViews();
  void AddView(Request& request, Candidate& candidate, int64_t tokens);
  void PlanParts();
  void MarkScheduled(Request& request, absl::Duration now);
  void ObserveStep(absl::Duration took);
  void CommitPart(const StepPart& part, absl::Span<float> logits, absl::Duration now);
  void ForkPrompt(Request& request);
  void Draw(Request& request, Candidate& candidate, absl::Span<float> logits, absl::Duration now);
  void LoseStep(const absl::Status& error);

  // endings.cc. Each gives everything back before it answers.
  void FinishCandidate(Request& request, Candidate& candidate, FinishReason reason);
  void FinishAppend(Request& request);
  void Cancel(Request& request, bool by_client);
  void Fail(Request& request, const absl::Status& status);
  void EndSession(Session& session, SessionEnd end, const absl::Status& status);
  void ReleaseCandidate(Candidate& candidate);
  void EndRequest(Request& request);
  void BeginNextTurn(Request& ended);
  RequestUsage UsageOf(const Request& request, const Candidate& candidate) const;
  RequestTimings TimingsOf(const Request& request, const Candidate& candidate) const;

  const EngineOptions options_;
  CompiledDecoder& decoder_;
  const TokenTextFunction token_text_;
  const Clock& clock_;
  Metrics& metrics_;
  const std::unique_ptr<StatePool> pool_;  // outlives the table and the requests, which hold rows
  const std::shared_ptr<EngineShared> shared_;

  Keeper* const keeper_;  // null: there is no store

  SessionTable table_;
  PrefixCache prefixes_;  // shares rows of checkpoints, which the table counts
  std::vector<std::unique_ptr<Request>> requests_;  // in order of acceptance
  absl::flat_hash_map<const TokenStream*, Request*> by_stream_;
  absl::flat_hash_map<uint64_t, SessionTurns> turns_;  // by the session's number
  // Of the last turn of each session, by its number.
  absl::flat_hash_map<uint64_t, std::shared_ptr<TurnHistory>> histories_;
  TurnReplays replays_;
  const size_t parked_row_bytes_;  // of an encoded row
  absl::flat_hash_map<Name, Waking> waking_;
  absl::flat_hash_map<Name, std::unique_ptr<Recovery>> recoveries_;
  absl::flat_hash_map<uint64_t, Request*> held_;  // by Request::held_by
  uint64_t next_ticket_ = 1;
  absl::flat_hash_set<uint64_t> moving_;               // numbers of sessions on their way to disk
  int64_t leaving_bytes_ = 0;                          // of their rows
  absl::flat_hash_map<Name, absl::Duration> unsaved_;  // since when
  absl::Duration next_save_ = absl::InfiniteDuration();
  bool shutting_down_ = false;
  uint64_t next_turn_ = 1;
  bool ended_some_ = false;          // since the last sweep
  double mean_request_seconds_ = 1;  // moving average, for retry hints

  // Reused from step to step.
  FairShare fair_share_;
  std::vector<EngineMessage> messages_;
  std::deque<EngineMessage> for_room_;  // wait until a row is free, in the order of arrival
  std::vector<RowView> views_;
  std::vector<StepPart> view_parts_, parts_;  // beside views_; of the step
  std::vector<StepRow> step_rows_;
  std::vector<float> logits_;         // [max_batch_rows, vocab]
  std::vector<float> answer_logits_;  // [vocab], for the answers of one prompt
  int64_t paused_ = 0;                // requests left out of the last step for want of room
  int64_t detached_ = 0;              // because nobody reads them
  int64_t drawn_tokens_ = 0;          // in this step
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_ENGINE_CORE_H_
