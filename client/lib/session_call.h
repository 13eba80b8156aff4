// The stream below a Session: commands out, events sorted by the command that they answer.
#ifndef GMA_CLIENT_LIB_SESSION_CALL_H_
#define GMA_CLIENT_LIB_SESSION_CALL_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/lib/answer.h"
#include "client/lib/call.h"
#include "gma/v1/generation.grpc.pb.h"
#include "grpcpp/client_context.h"

namespace gma::client {

// THREADS: any. Keeps itself alive until the stream is over.
class SessionCall final : public grpc::ClientBidiReactor<v1::SessionRequest, v1::SessionResponse> {
 public:
  explicit SessionCall(const StreamEnvironment& env);
  static std::shared_ptr<SessionCall> Start(const StreamEnvironment& env);

  // Sends a command whose events are wanted; returns its request id. They wait until Forget.
  uint64_t Send(v1::SessionRequest request) ABSL_LOCKS_EXCLUDED(mutex_);
  // Sends a command that needs no answer (cancel, credit); its events are dropped.
  void SendOnly(v1::SessionRequest request) ABSL_LOCKS_EXCLUDED(mutex_);
  void Forget(uint64_t request_id) ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits until Next(request_id) would not block, `timeout` at most.
  bool Wait(uint64_t request_id, absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  // The next event that answers `request_id`, heartbeats left out.
  // ERRORS: a SessionError as its status; the status of the stream once it is over (kUnavailable
  // when it ended without `ended`); kDeadlineExceeded after `timeout`.
  absl::StatusOr<v1::SessionResponse> Next(uint64_t request_id, absl::Duration timeout)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Breaks the stream off, unless it is over.
  void Abort() ABSL_LOCKS_EXCLUDED(mutex_);
  bool over() const ABSL_LOCKS_EXCLUDED(mutex_);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  using EventQueue = std::deque<v1::SessionResponse>;

  void Enqueue(v1::SessionRequest request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // One event or the end is there. `queue`: of the command that is waited for.
  bool Ready(const EventQueue& queue) const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !queue.empty() || status_.has_value();
  }

  std::optional<StreamCount::Token> token_;  // nothing: the stream is over
  v1::SessionResponse incoming_;
  SequenceCheck sequence_;
  std::shared_ptr<SessionCall> self_;

  mutable absl::Mutex mutex_;
  std::optional<grpc::ClientContext> context_ ABSL_GUARDED_BY(mutex_);  // nothing: as token_
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<v1::SessionRequest> outgoing_ ABSL_GUARDED_BY(mutex_);  // front: being written
  bool writable_ ABSL_GUARDED_BY(mutex_) = true;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;   // the server's polite end was read
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);  // why this side gave the stream up
  std::map<uint64_t, EventQueue> waiting_ ABSL_GUARDED_BY(mutex_);  // by request id
  std::optional<absl::Status> status_ ABSL_GUARDED_BY(mutex_);      // set when the stream is over
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_SESSION_CALL_H_
