// Generate calls without a thread each: thousands may run at once on one channel.
#ifndef GMA_CLIENT_LIB_CALL_H_
#define GMA_CLIENT_LIB_CALL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/lib/answer.h"
#include "client/lib/resume.h"
#include "client/lib/targets.h"
#include "gma/v1/generation.grpc.pb.h"

namespace gma::client {

// What becomes of a call's events.
// THREADS: called on threads of the library, one call of them at a time; must not block.
struct GenerateHandler {
  // The next event; the handler may take it apart. False: read no further until Resume.
  std::function<bool(v1::GenerateResponse& event)> on_event;
  // The end of the call, exactly once and last. OK only when every candidate was finished.
  std::function<void(absl::Status status)> on_done;
};

// A running call. Letting go of it neither cancels nor ends the call.
// THREADS: any, but not a signal handler.
class GenerateCall {
 public:
  virtual ~GenerateCall() = default;
  // Ends the call with kCancelled, also while it is paused; nothing happens after its end.
  virtual void Cancel() = 0;
  // Reads on after on_event returned false. A call that is neither resumed nor cancelled never
  // ends. May be called before on_event has returned.
  virtual void Resume() = 0;
};

// The streams of a client that are under way. Each keeps gRPC's channel alive, and whoever lets go
// of a channel last joins gRPC's threads, which one of those cannot do: so the client, which holds
// the channel too, waits for its streams before it lets go. THREADS: any.
class StreamCount {
 public:
  // One stream, for as long as it lives.
  class Token {
   public:
    explicit Token(StreamCount& count);
    Token(const Token&) = delete;
    Token& operator=(const Token&) = delete;
    ~Token();

   private:
    StreamCount& count_;
  };

  void WaitForNone() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  bool None() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return streams_ == 0; }

  absl::Mutex mutex_;
  int64_t streams_ ABSL_GUARDED_BY(mutex_) = 0;
};

// What a stream needs of its client, which outlives it.
struct StreamEnvironment {
  Targets& targets;
  const std::string& authorization;  // value of that metadata key; empty: none
  StreamCount& streams;
  absl::Duration resume_for;  // as ClientOptions says
};

// Starts a call. `timeout`: of the whole call. The handler hears of everything that happens to it:
// it is not gone on with when it breaks off.
std::shared_ptr<GenerateCall> StartGenerate(const StreamEnvironment& env, StreamRequest request,
                                            absl::Duration timeout, GenerateHandler handler);

// An answer that one thread reads and that goes on in another call when one breaks off (resume.h).
// At most `capacity` messages wait in this process; a slower reader slows the stream down.
std::unique_ptr<AnswerStream> StreamAnswer(const StreamEnvironment& env, StreamRequest request,
                                           absl::Duration timeout, size_t capacity = 64);

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_CALL_H_
