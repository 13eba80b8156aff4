#include "client/lib/session_call.h"

#include <utility>

#include "client/lib/status.h"

namespace gma::client {

SessionCall::SessionCall(const StreamEnvironment& env)
    : token_(std::in_place, env.streams), context_(std::in_place) {}

std::shared_ptr<SessionCall> SessionCall::Start(const StreamEnvironment& env) {
  auto call = std::make_shared<SessionCall>(env);
  call->self_ = call;
  absl::MutexLock lock(&call->mutex_);
  if (!env.authorization.empty()) call->context_->AddMetadata("authorization", env.authorization);
  env.stub.async()->Session(&*call->context_, call.get());
  // Writes start outside of reactions, so the stream must not be over before they know.
  call->AddHold();
  call->StartRead(&call->incoming_);
  call->StartCall();
  return call;
}

void SessionCall::Abort() {
  absl::MutexLock lock(&mutex_);
  if (context_.has_value()) context_->TryCancel();
}

uint64_t SessionCall::Send(v1::SessionRequest request) {
  absl::MutexLock lock(&mutex_);
  const uint64_t id = ++last_id_;
  waiting_[id];
  request.set_request_id(id);
  Enqueue(std::move(request));
  return id;
}

void SessionCall::SendOnly(v1::SessionRequest request) {
  absl::MutexLock lock(&mutex_);
  request.set_request_id(++last_id_);
  Enqueue(std::move(request));
}

void SessionCall::Enqueue(v1::SessionRequest request) {
  if (!writable_) return;  // the status of the stream says why
  outgoing_.push_back(std::move(request));
  if (outgoing_.size() == 1) WriteNext();
}

void SessionCall::WriteNext() { StartWrite(&outgoing_.front()); }

void SessionCall::Forget(uint64_t request_id) {
  absl::MutexLock lock(&mutex_);
  waiting_.erase(request_id);
}

bool SessionCall::Wait(uint64_t request_id, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const EventQueue& queue = waiting_[request_id];
  const auto ready = [&] {
    mutex_.AssertReaderHeld();
    return Ready(queue);
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout);
}

absl::StatusOr<v1::SessionResponse> SessionCall::Next(uint64_t request_id, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  EventQueue& queue = waiting_[request_id];
  const auto ready = [&] {
    mutex_.AssertReaderHeld();
    return Ready(queue);
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout)) {
    return absl::DeadlineExceededError("the server did not answer in time");
  }
  if (queue.empty()) {
    if (!status_->ok()) return *status_;
    return absl::UnavailableError("the session's stream has ended");
  }
  v1::SessionResponse event = std::move(queue.front());
  queue.pop_front();
  if (event.has_error()) {
    return absl::Status(static_cast<absl::StatusCode>(event.error().code()),
                        event.error().message());
  }
  return event;
}

bool SessionCall::over() const {
  absl::MutexLock lock(&mutex_);
  return status_.has_value() || ended_ || !writable_;
}

void SessionCall::OnReadDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    if (!ok) {
      writable_ = false;
      // A write that is in flight ends by itself; no new one starts.
      RemoveHold();
      return;
    }
    int64_t numbers = 1;
    if (incoming_.has_tokens()) numbers = incoming_.tokens().tokens_size();
    if (broken_.ok()) {
      broken_ = sequence_.Accept(incoming_.sequence(), numbers,
                                 incoming_.has_started() || incoming_.has_appended());
      if (!broken_.ok()) context_->TryCancel();
    }
    if (!broken_.ok()) {
      // Only the end of the stream is waited for.
    } else if (const auto queue = waiting_.find(incoming_.request_id());
               queue != waiting_.end() && !incoming_.has_heartbeat()) {
      ended_ = ended_ || incoming_.has_ended();
      queue->second.push_back(std::move(incoming_));
    }
  }
  StartRead(&incoming_);
}

void SessionCall::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  outgoing_.pop_front();
  if (!ok) writable_ = false;
  if (!writable_) outgoing_.clear();
  if (!outgoing_.empty()) WriteNext();
}

void SessionCall::OnDone(const grpc::Status& grpc_status) {
  const std::shared_ptr<SessionCall> self = std::move(self_);
  {
    absl::MutexLock lock(&mutex_);
    absl::Status status = broken_;
    if (status.ok()) status = StatusOfCall(grpc_status, *context_);
    if (status.ok() && !ended_) {
      status = absl::UnavailableError("the session's stream ended without the server's goodbye");
    }
    context_.reset();
    status_ = std::move(status);
  }
  token_.reset();
}

}  // namespace gma::client
