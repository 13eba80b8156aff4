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

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "model/decoder/compiled_decoder.h"
#include "model/state/state_pool.h"
#include "server/engine/engine.h"
#include "server/engine/engine_store.h"
#include "server/engine/message_address.h"
#include "server/engine/request.h"
#include "server/metrics/metrics.h"
#include "server/session/session_table.h"

namespace gma {

// THREADS: one at a time; the engine's thread, or whoever calls Engine::Tick.
class EngineCore final : public EngineStore {
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
  // Aborts unless every state row belongs to exactly one session, and the counters agree. Looks at
  // every session; each step checks the rows in it by itself.
  void CheckOwnership() const;
  const StatePool& pool() const { return *pool_; }

 private:
  using EngineStore::InfoOf;
  using EngineStore::OnMessage;

  // engine_core.cc: messages, timers, gauges.
  void EndOverdue(absl::Duration now);
  void EndOverdue(Request& request);
  void SweepEnded();
  void UpdateGauges();

  // dispatch.cc: messages that wait until what they are for is at hand.
  void TakeMessages();
  void Dispatch(EngineMessage& message) override;
  // Makes the session of a message, and the rows that it takes, ready; false: the message was
  // answered, or waits.
  template <typename Message>
  bool Prepare(EngineMessage& posted, const Message& message);
  // There is no row for the message: it waits for one that is on its way, or is refused.
  void WaitForRoom(EngineMessage& message) override;
  bool WaitsForRoom(const SessionAddress& address) const;
  void WaitIn(std::deque<EngineMessage>& messages, EngineMessage& message);
  void Refuse(EngineMessage& message, const absl::Status& status) override;
  // Those that wait and need not any more.
  void DispatchWaiting();
  void EndOverdueWaiting(absl::Duration now);
  absl::Duration NextWaitingDeadline() const;
  void RefuseWaiting(const absl::Status& status);  // all of them
  // Whether `message` is about a turn that may have begun, and whose session is not here yet: it
  // waits with that.
  bool CancelBehind(const CancelMessage& message);
  // Takes the message of `stream` out of those that wait; null: there is none.
  std::unique_ptr<GenerateMessage> TakeWaiting(const TokenStream* stream);

  // parking.cc.
  void OnMessage(PinMessage message);

  // admission.cc: from message to a turn that can be scheduled.
  void OnMessage(GenerateMessage message);
  void OnMessage(AppendMessage message);
  void OnMessage(RewindMessage message);
  void OnMessage(const CancelMessage& message);
  Request& AddRequest(GenerateMessage message);
  void Admit(std::unique_ptr<Request> request);
  void Admit(Request& request);
  absl::Status AdmitToSession(Request& request);
  absl::Status AdmitPrivate(Request& request);
  void WaitForTurn(Request& request, Session& session);
  absl::Status BeginSessionTurn(Request& request, Session& session);
  void StartTurn(Request& request, Session& session, TurnKind kind, bool new_input) override;
  // The turn has begun and nothing holds it: what is known goes in, and what needs no step ends.
  void EnterTurn(Request& request, Session& session) override;
  void BeginHistory(Request& request, Session& session);
  absl::Status BusyError(const Session& session) const;
  absl::Status CheckQuota(const Owner& owner, int32_t rows);
  absl::Status NoRowError();
  Candidate MakeCandidate(const Request& request, int32_t index, Session* session);

  // resume.cc: events of turns, and their readers.
  void OnMessage(const ResumeMessage& message);
  // Whether so many tokens can be drawn now. A reader that is behind gets the past first.
  bool HasRoom(const Request& request, int64_t tokens) const;
  // The turn is over: its reader gets what it still lacks, then `status`, or Finished.
  void EndReader(Request& request, absl::Status status);
  // The reader is gone, its call ends with `status`: detaches the turn, or fails it.
  void LoseReader(Request& request, const absl::Status& status);
  void Detach(Request& request);
  // A turn that is run again after a restart gets as far without a reader as its client may have
  // seen it: to that event; nothing: to its end.
  void CatchUp(Request& rerun, std::optional<int64_t> until);
  // Ends a detached turn whose time has come.
  void EndDetached(Request& request, absl::Duration now);
  // The turn stays as the journal has it: who has the session next goes on with it.
  void Leave(Request& request);
  // `after` nothing: from the beginning of the turn. ERRORS: as Engine::Resume; the stream is open.
  absl::Status ResumeTurn(Session& session, std::shared_ptr<TokenStream> stream,
                          std::optional<int64_t> after, absl::Duration deadline);
  void Attach(Request& request, std::shared_ptr<TokenStream> stream, int64_t after,
              absl::Duration deadline);
  // Gives readers that are behind what there is room for; returns whether there was anything.
  bool PumpReader(Request& request);
  bool PumpReaders();
  // The call of the same key that waits for the session or is active on it.
  Request* FindKey(const Request& request, const Session& session);
  // Whether `request` is the session's last turn, or one that waits, called again: it is ended
  // then, and what it answers through goes to that turn. ERRORS: kInvalidArgument.
  absl::StatusOr<bool> JoinTurn(Request& request, Session& session);
  void AnswerAgain(Request& again, Request* same, const Session& session);

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

  // session_calls.cc.
  void OnMessage(OpenMessage message);
  void OnMessage(GetMessage message);
  void OnMessage(ListMessage message);
  void OnMessage(CloseMessage message);
  absl::StatusOr<Session*> Open(const OpenMessage& message);
  SessionSnapshotInfo InfoOf(const Session& session) const override;
  // Awake, asleep, and in the store alone, once it has said so.
  std::vector<SessionSnapshotInfo> List(const ListMessage& message);
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
  void EndAnswer(Request& request, FinishReason reason);
  void FinishAppend(Request& request);
  void Cancel(Request& request, bool by_client);
  void Fail(Request& request, const absl::Status& status) override;
  void EndSession(Session& session, SessionEnd end, const absl::Status& status) override;
  void ReleaseCandidate(Candidate& candidate);
  void EndRequest(Request& request);
  void BeginNextTurn(Request& ended);
  RequestUsage UsageOf(const Request& request, const Candidate& candidate) const;
  RequestTimings TimingsOf(const Request& request, const Candidate& candidate) const;
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_ENGINE_CORE_H_
