// One bidirectional stream of a session: commands out, events in.
#ifndef GMA_CLIENT_LIB_SESSION_STREAM_H_
#define GMA_CLIENT_LIB_SESSION_STREAM_H_

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "client/lib/call.h"
#include "gma/v1/generation.grpc.pb.h"
#include "grpcpp/client_context.h"

namespace gma::client {

// THREADS: any. Keeps itself alive until the stream is over.
class SessionStream final
    : public grpc::ClientBidiReactor<v1::SessionRequest, v1::SessionResponse> {
 public:
  // Called on threads of the library, one call of them at a time; must not block, and may call the
  // stream.
  struct Handler {
    std::function<void(v1::SessionResponse event)> on_event;
    std::function<void(absl::Status status)> on_over;  // once, last
  };

  SessionStream(const StreamEnvironment& env, Handler handler);
  // `session_id`: empty for a new session.
  static std::shared_ptr<SessionStream> Start(const StreamEnvironment& env,
                                              const std::string& session_id, Handler handler);

  // What is sent to a stream that is over is dropped.
  void Send(v1::SessionRequest request) ABSL_LOCKS_EXCLUDED(mutex_);
  // Breaks the stream off, unless it is over.
  void Abort() ABSL_LOCKS_EXCLUDED(mutex_);
  // The other side takes no more commands.
  bool over() const ABSL_LOCKS_EXCLUDED(mutex_);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  Targets& targets_;
  Target& target_;
  const Handler handler_;
  std::optional<StreamCount::Token> token_;  // nothing: the stream is over
  v1::SessionResponse incoming_;
  std::shared_ptr<SessionStream> self_;

  mutable absl::Mutex mutex_;
  std::optional<grpc::ClientContext> context_ ABSL_GUARDED_BY(mutex_);  // nothing: as token_
  std::deque<v1::SessionRequest> outgoing_ ABSL_GUARDED_BY(mutex_);     // front: being written
  bool writable_ ABSL_GUARDED_BY(mutex_) = true;
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_SESSION_STREAM_H_
