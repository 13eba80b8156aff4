// Generate calls without a thread each: thousands may run at once on one channel.
#ifndef GMA_CLIENT_LIB_CALL_H_
#define GMA_CLIENT_LIB_CALL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/lib/answer.h"
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

// Starts a call on `stub`. `authorization`: value of that metadata key; empty: none.
// `timeout`: of the whole call.
std::shared_ptr<GenerateCall> StartGenerate(v1::Generation::Stub& stub, v1::GenerateRequest request,
                                            const std::string& authorization,
                                            absl::Duration timeout, GenerateHandler handler);

// The same, read by one thread that blocks. At most `capacity` messages wait in this process; a
// slower reader slows the stream down.
std::unique_ptr<AnswerStream> StreamGenerate(v1::Generation::Stub& stub,
                                             v1::GenerateRequest request,
                                             const std::string& authorization,
                                             absl::Duration timeout, size_t capacity = 64);

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_CALL_H_
