// The bounded one-way channel from the engine to the reader of one request.
#ifndef GMA_SERVER_ENGINE_TOKEN_STREAM_H_
#define GMA_SERVER_ENGINE_TOKEN_STREAM_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "model/sampling/sampler.h"
#include "model/sampling/sampling_params.h"

namespace gma {

struct RequestUsage {
  int64_t prompt_tokens = 0;      // fed for this request, pending token included
  int64_t cached_tokens = 0;      // in the state before
  int64_t completion_tokens = 0;  // generated
};

struct RequestTimings {  // seconds of the monotonic clock
  double queue = 0, prefill = 0, decode = 0, first_token = 0;
};

// `sequence` of each: its number among the events of its session, or of its private request, from
// 1; 0: no event of a session (the end of a turn that never began).
struct StartedEvent {
  uint64_t seed;  // of candidate 0
  int64_t sequence = 0;
};

struct TokenEvent {
  int32_t candidate;
  SampledToken sampled;
  std::string text = {};  // bytes that may be shown now
  bool logprobs = false;  // they were asked for
  int64_t sequence = 0;
};

// Input entered the session: in an Append, or between two tokens of an answer.
struct AppendedEvent {
  int64_t context_tokens;  // of the session, with this input
  int64_t tokens;          // that came with it
  std::string text;        // bytes of the answer that a stop string held back until here
  std::optional<uint64_t>
      request_id;  // AppendSpec's; nothing where no append of the reader is meant
  int64_t sequence = 0;
};

struct FinishedEvent {
  int32_t candidate;
  FinishReason reason;
  std::string text;  // bytes released at the end
  RequestUsage usage;
  RequestTimings timings;
  int64_t sequence = 0;
};

using StreamEvent = std::variant<StartedEvent, TokenEvent, AppendedEvent, FinishedEvent>;

inline int64_t SequenceOf(const StreamEvent& event) {
  return std::visit([](const auto& typed) { return typed.sequence; }, event);
}
inline void SetSequence(StreamEvent& event, int64_t sequence) {
  std::visit([sequence](auto& typed) { typed.sequence = sequence; }, event);
}

// Shared by the engine, which pushes, and one reader, which takes; each lets go when it is done.
// The engine looks at HasRoom before each step and leaves the request out of the step when there
// is none, so Push never has to drop or wait.
// THREADS: any; every method is atomic.
class TokenStream {
 public:
  // `capacity`: token events held at most. `initial_credit`: tokens that may be pushed before more
  // credit is granted. `notify` is called, outside the lock, after events were pushed to an empty
  // stream and after the end; it must not block, and may be called from the engine's thread or,
  // when a request is refused, from the caller's. `wake` is called, outside the lock, when the
  // reader made room (by taking events or granting credit) after HasRoom had said no; it may be
  // called after the engine is gone.
  static constexpr int64_t kUnlimitedCredit = int64_t{1} << 60;
  TokenStream(size_t capacity, int64_t initial_credit, absl::AnyInvocable<void()> notify,
              absl::AnyInvocable<void()> wake = nullptr);

  // Reader: moves all events, oldest first, into `events` (cleared first). Returns the final status
  // once everything was taken and the engine has closed the stream, else nothing.
  std::optional<absl::Status> TakeAll(std::vector<StreamEvent>& events) ABSL_LOCKS_EXCLUDED(mutex_);
  // Reader: asks the engine to end the request within one step; idempotent. The engine must be
  // woken too: use Engine::Cancel.
  void Cancel() { cancelled_.store(true); }
  // Reader: grants `tokens` more, the sum capped at `cap` (credit is never taken back by the cap).
  void AddCredit(int64_t tokens, int64_t cap) ABSL_LOCKS_EXCLUDED(mutex_);

  // Engine:
  bool cancelled() const { return cancelled_.load(); }
  // Whether `tokens` token events can be pushed now (credit and capacity).
  bool HasRoom(int64_t tokens) const ABSL_LOCKS_EXCLUDED(mutex_);
  // REQUIRES: HasRoom for each TokenEvent; not closed.
  void Push(StreamEvent event) ABSL_LOCKS_EXCLUDED(mutex_);
  // Pushes the last event and closes with OK in one go: who reads the end of an answer finds the
  // stream closed, and may start the session's next turn at once. Nothing is pushed after it.
  void Finish(FinishedEvent event) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the stream without an answer: nothing is pushed after it.
  void Close(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const size_t capacity_;
  std::atomic<bool> cancelled_{false};
  absl::AnyInvocable<void()> notify_;  // called by one thread at a time: pushes are the engine's
  absl::AnyInvocable<void()> wake_;    // likewise: takes and grants are the reader's
  mutable Mutex mutex_;
  std::vector<StreamEvent> events_ ABSL_GUARDED_BY(mutex_);
  size_t token_events_ ABSL_GUARDED_BY(mutex_) = 0;  // in events_
  mutable bool room_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t credit_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> closed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_TOKEN_STREAM_H_
