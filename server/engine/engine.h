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
#include "server/engine/token_stream.h"
#include "server/metrics/metrics.h"
#include "server/session/session_id.h"
#include "server/session/session_past.h"
#include "server/session/session_phase.h"
#include "server/session/snapshot.h"

namespace gma {

struct EngineOptions {
  int32_t max_sessions = 128;            // state rows in the pool
  int32_t max_waiting = 256;             // requests accepted and not scheduled yet
  int32_t max_sessions_per_owner = 128;  // state rows of one owner, private requests included
  int32_t max_batch_rows = 64;           // as the decoder was loaded with
  int32_t max_step_tokens = 64;          // likewise; also the longest stall a prefill can cause
  absl::Duration default_ttl = absl::Minutes(30);  // idle time until a session expires
  size_t stream_capacity = 256;     // token events a slow reader can leave waiting, >= 16
  std::vector<int32_t> end_tokens;  // the model's
  PastLimits past = {};             // what each session remembers; private requests nothing
};

// Bytes of a token as text shown to a person: empty for control tokens.
// THREADS: called from the engine's thread; the text outlives the engine.
using TokenTextFunction = std::function<std::string_view(int32_t)>;

// What to feed. On a session whose last turn was an assistant's answer, `close_tokens` (the end of
// an answer in the model's chat format) comes first, without those of it that the answer has
// already drawn; so a chat goes on correctly after an end token, a length stop and a cancel. Where
// nothing was fed before, `opening_tokens` (the model's default system message) comes first.
struct InputTokens {
  std::vector<int32_t> tokens;
  std::vector<int32_t> close_tokens, opening_tokens;  // only for chat input
};

// REQUIRES of all fields: checked against the limits table by the caller.
struct GenerateSpec {
  std::string owner;                 // authenticated; never from the request
  std::optional<SessionId> session;  // nothing: a private session that ends with the request
  InputTokens input;                 // empty: go on from where the session stands
  SamplingParams sampling;
  StopParams stop;
  int32_t n = 1;  // answers; more than 1 only for a private session
  bool wait_if_busy = false;
  int32_t priority = 0;
  absl::Duration deadline = absl::InfiniteDuration();      // on Clock::Monotonic()
  int64_t initial_credit = TokenStream::kUnlimitedCredit;  // all n answers draw on it together
};

struct AppendSpec {
  std::string owner;
  SessionId session;
  InputTokens input;  // not empty
  bool wait_if_busy = false;
  absl::Duration deadline = absl::InfiniteDuration();
};

struct RewindSpec {
  std::string owner;
  SessionId session;
  RewindTarget target;
  absl::Duration deadline = absl::InfiniteDuration();  // to begin by
};

struct CheckpointInfo {
  std::string name;  // empty: automatic
  int64_t context_tokens;
  bool automatic;
};

struct SessionSnapshotInfo {
  SessionId id;
  SessionPhase phase;
  int64_t context_tokens;  // fed, pending token included
  absl::Duration age, idle, ttl;
  int64_t checkpoints, checkpoint_bytes;  // kept for it; forks share bytes
  int64_t oldest_rewind;                  // from here to the present, every position can be reached
};

struct EngineStatus {
  int32_t rows_used, rows_total;
  int64_t requests_running, requests_waiting;
};

// Session calls answer through a callback, once, on the engine's thread (or on the caller's when
// the call is refused at once). A callback must not block and must not call the engine back under
// a lock of its own that another thread holds while calling the engine.
template <typename T>
using EngineCallback = absl::AnyInvocable<void(absl::StatusOr<T>)>;

// THREADS: any, except where noted. Lives until Shutdown was called and the thread was joined.
class Engine {
 public:
  // REQUIRES: decoder, clock and metrics outlive the engine.
  // ERRORS: kResourceExhausted when the pool does not fit into memory.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        CompiledDecoder& decoder,
                                                        TokenTextFunction token_text,
                                                        const Clock& clock, Metrics& metrics);
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
  virtual void AddCredit(const std::shared_ptr<TokenStream>& stream, int64_t tokens) = 0;

  // `ttl` zero: the default.
  virtual void Open(std::string owner, absl::Duration ttl,
                    EngineCallback<SessionSnapshotInfo> done) = 0;
  // Feeds input; answers when all of it but the last token, which stays pending, is fed.
  virtual void Append(AppendSpec spec, EngineCallback<SessionSnapshotInfo> done) = 0;
  virtual void Get(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) = 0;
  // At most `limit` of the owner's sessions after `after`, by id.
  virtual void List(std::string owner, std::optional<SessionId> after, int32_t limit,
                    EngineCallback<std::vector<SessionSnapshotInfo>> done) = 0;
  // Answers with what the session was; an active turn ends with kCancelled.
  virtual void Close(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) = 0;

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
