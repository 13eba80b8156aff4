#include "client/lib/session_stream.h"

#include <utility>

#include "client/lib/call_metadata.h"
#include "client/lib/status.h"

namespace gma::client {

SessionStream::SessionStream(const StreamEnvironment& env, Handler handler)
    : targets_(env.targets),
      target_(targets_.current()),
      handler_(std::move(handler)),
      token_(std::in_place, env.streams),
      context_(std::in_place) {}

std::shared_ptr<SessionStream> SessionStream::Start(const StreamEnvironment& env,
                                                    const std::string& session_id,
                                                    Handler handler) {
  auto stream = std::make_shared<SessionStream>(env, std::move(handler));
  stream->self_ = stream;
  absl::MutexLock lock(&stream->mutex_);
  AddMetadata(*stream->context_, env.authorization, session_id);
  stream->target_.generation.async()->Session(&*stream->context_, stream.get());
  // Writes start outside of reactions, so the stream must not be over before they know.
  stream->AddHold();
  stream->StartRead(&stream->incoming_);
  stream->StartCall();
  return stream;
}

void SessionStream::Send(v1::SessionRequest request) {
  absl::MutexLock lock(&mutex_);
  if (!writable_) return;  // the status of the stream says why
  outgoing_.push_back(std::move(request));
  if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
}

void SessionStream::Abort() {
  absl::MutexLock lock(&mutex_);
  if (context_.has_value()) context_->TryCancel();
}

bool SessionStream::over() const {
  absl::MutexLock lock(&mutex_);
  return !writable_;
}

void SessionStream::OnReadDone(bool ok) {
  if (!ok) {
    absl::MutexLock lock(&mutex_);
    writable_ = false;
    // A write that is in flight ends by itself; no new one starts.
    RemoveHold();
    return;
  }
  handler_.on_event(std::move(incoming_));
  StartRead(&incoming_);
}

void SessionStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  outgoing_.pop_front();
  if (!ok) writable_ = false;
  if (!writable_) outgoing_.clear();
  if (!outgoing_.empty()) StartWrite(&outgoing_.front());
}

void SessionStream::OnDone(const grpc::Status& grpc_status) {
  const std::shared_ptr<SessionStream> self = std::move(self_);
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    status = StatusOfCall(grpc_status, *context_);
    context_.reset();
  }
  if (BrokeOff(status)) targets_.Leave(target_);
  handler_.on_over(std::move(status));
  token_.reset();
}

}  // namespace gma::client
