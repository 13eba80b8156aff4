// The engine: one thread owns device, state pool, sessions and scheduler. Everybody else posts to
// its mailbox and gets answers through token streams and callbacks.
//
// One tick: take messages -> expire and cancel -> plan a step (scheduler) -> run it (decoder) ->
// sample, judge, commit, push events. A sampled token is *pending*: it is fed at the start of the
// session's next step, so stop criteria are judged before a token is fed.
#ifndef GMA_SERVER_ENGINE_ENGINE_H_
#define GMA_SERVER_ENGINE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "model/decoder/compiled_decoder.h"
#include "model/sampling/sampling_params.h"
#include "server/engine/engine_types.h"
#include "server/engine/keeper.h"
#include "server/engine/token_stream.h"
#include "server/metrics/metrics.h"
#include "server/session/session_id.h"
#include "server/session/session_past.h"
#include "server/session/session_phase.h"
#include "server/session/snapshot.h"

namespace gma {

// The final status of a stream whose turn another reader took over (kAborted).
absl::Status TakenOverError();

// THREADS: any, except where noted. Lives until Shutdown was called and the thread was joined.
class Engine {
 public:
  // `keeper`: of the store that sessions are kept in; null: there is none.
  // REQUIRES: decoder, clock and metrics outlive the engine.
  // ERRORS: kResourceExhausted when the pool does not fit into memory.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        CompiledDecoder& decoder,
                                                        TokenTextFunction token_text,
                                                        const Clock& clock, Metrics& metrics,
                                                        std::unique_ptr<Keeper> keeper = nullptr);
  virtual ~Engine() = default;

  // Starts an answer. Refusals that need no look at the session come at once, before anything is
  // allocated; all others as the stream's final status.
  // ERRORS: kResourceExhausted with a retry hint when the queue is full; kUnavailable while
  // draining. Final statuses: kNotFound, kFailedPrecondition (busy), kInvalidArgument (nothing to
  // go on from), kResourceExhausted (no row), kDeadlineExceeded, kCancelled, kDataLoss.
  virtual absl::StatusOr<std::shared_ptr<TokenStream>> Generate(
      GenerateSpec spec, absl::AnyInvocable<void()> notify) = 0;
  // Ends the request of `stream` within one step. A stream whose request already ended is left
  // alone. `by_client` true: reason kCancelled in a FinishedEvent and an OK status (Session
  // streams); false: the reader is gone.
  virtual void Cancel(const std::shared_ptr<TokenStream>& stream, bool by_client) = 0;
  // The rest of a session's last turn, for a reader that lost its stream; it takes an active turn
  // over: the older stream ends with TakenOverError. Final statuses, besides the turn's: kNotFound;
  // kFailedPrecondition (an Append or a Rewind is active); kOutOfRange, naming both numbers, when
  // `after` is greater than the session's last number, or naming the oldest one kept, when events
  // after it are gone. ERRORS: kResourceExhausted when the mailbox is full.
  virtual absl::StatusOr<std::shared_ptr<TokenStream>> Resume(
      ResumeSpec spec, absl::AnyInvocable<void()> notify) = 0;
  virtual void AddCredit(const std::shared_ptr<TokenStream>& stream, int64_t tokens) = 0;

  // ERRORS: kResourceExhausted for the quota, or when no row is free and nothing may be parked.
  virtual void Open(OpenSpec spec, EngineCallback<SessionSnapshotInfo> done) = 0;
  // Feeds input; answers when all of it but the last token, which stays pending, is fed.
  // Into an active turn (spec.turn): answers at once; the AppendedEvent tells where it entered.
  virtual void Append(AppendSpec spec, EngineCallback<SessionSnapshotInfo> done) = 0;
  // Ends the turn of spec.turn as Cancel by the client, then appends; nothing comes between.
  virtual void CancelAndAppend(AppendSpec spec, EngineCallback<SessionSnapshotInfo> done) = 0;
  virtual void Get(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) = 0;
  // At most `limit` of the owner's sessions after `after`, by id.
  virtual void List(std::string owner, std::optional<SessionId> after, int32_t limit,
                    EngineCallback<std::vector<SessionSnapshotInfo>> done) = 0;
  // Answers with what the session was; an active turn ends with kCancelled.
  virtual void Close(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) = 0;

  // A pinned session keeps its row; also while a turn is active. ERRORS: as Open.
  virtual void Pin(std::string owner, SessionId id, bool pinned,
                   EngineCallback<SessionSnapshotInfo> done) = 0;

  // The calls below refuse a session that has an active turn with kFailedPrecondition.
  //
  // A second session with the same past and ttl, by one copy of the row.
  // ERRORS: as Open.
  virtual void Fork(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) = 0;
  // Keeps the present state under `name`, which may be in use already; empty: under a number.
  // ERRORS: kResourceExhausted when it does not fit into PastLimits::checkpoint_bytes.
  virtual void Checkpoint(std::string owner, SessionId id, std::string name,
                          EngineCallback<CheckpointInfo> done) = 0;
  // Oldest first; also while a turn is active.
  virtual void ListCheckpoints(std::string owner, SessionId id,
                               EngineCallback<std::vector<CheckpointInfo>> done) = 0;
  // Forgets a checkpoint; also while a turn is active. ERRORS: kNotFound.
  virtual void DeleteCheckpoint(std::string owner, SessionId id, std::string name,
                                EngineCallback<SessionSnapshotInfo> done) = 0;
  // Goes back to an earlier state, exactly. Feeding tokens again is an ordinary turn of the
  // session; once begun it runs to its end, whoever waits for it.
  // ERRORS: as Generate, and kNotFound for a name, kOutOfRange for a position out of reach.
  virtual void Rewind(RewindSpec spec, EngineCallback<SessionSnapshotInfo> done) = 0;

  // A copy of the session, which stays.
  virtual void Export(std::string owner, SessionId id, EngineCallback<SessionImage> done) = 0;
  // A new session that stands where the image does, and can be rewound to there and to 0.
  // REQUIRES: the row of `image` has the size of the pool's. ERRORS: as Open.
  virtual void Import(std::string owner, SessionImage image,
                      EngineCallback<SessionSnapshotInfo> done) = 0;

  virtual EngineStatus GetStatus() const = 0;

  // One tick, without waiting: for the simulator and for tests, instead of Start.
  // Returns whether there was anything to do. THREADS: the caller is the engine's thread.
  virtual bool Tick() = 0;
  // Aborts unless every state row belongs to exactly one session, all counters agree, and no row
  // waited longer than the scheduler promises: for the simulator and for tests. THREADS: as Tick.
  virtual void CheckOwnership() const = 0;
  // Runs ticks on a thread of its own until Shutdown.
  virtual void Start() = 0;
  // Refuses new work from now on (kUnavailable); what runs goes on.
  virtual void BeginDrain() = 0;
  // Nothing is running or waiting.
  virtual bool Drained() const = 0;
  // Ends what still runs (kUnavailable, "server is shutting down") and joins the thread.
  virtual void Shutdown() = 0;
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_ENGINE_H_
