#include "client/lib/session_call.h"

#include <algorithm>
#include <utility>

namespace gma::client {

SessionCall::SessionCall(const StreamEnvironment& env, v1::SessionOpen open)
    : env_(env), credit_(open.initial_credit()), open_(std::move(open)), retries_(env.resume_for) {}

std::shared_ptr<SessionCall> SessionCall::Start(const StreamEnvironment& env,
                                                v1::SessionOpen open) {
  auto call = std::make_shared<SessionCall>(env, std::move(open));
  absl::MutexLock lock(&call->mutex_);
  call->last_id_ = kOpenId;
  call->waiting_[kOpenId];
  call->StartStream();
  return call;
}

void SessionCall::StartStream() {
  const int attempt = ++attempt_;
  const std::shared_ptr<SessionCall> self = shared_from_this();
  stream_ = SessionStream::Start(
      env_, open_.session_id(),
      {.on_event = [self, attempt](auto event) { self->OnEvent(attempt, std::move(event)); },
       .on_over = [self, attempt](auto status) { self->OnOver(attempt, std::move(status)); }});
  v1::SessionRequest request;
  request.set_request_id(kOpenId);
  *request.mutable_open() = open_;
  stream_->Send(std::move(request));
}

uint64_t SessionCall::Send(v1::SessionRequest request) {
  absl::MutexLock lock(&mutex_);
  const uint64_t id = ++last_id_;
  waiting_[id];
  request.set_request_id(id);
  if (MayResume() && request.has_generate() && request.generate().request_key().empty()) {
    request.mutable_generate()->set_request_key(RandomRequestKey());
  } else if (MayResume() && request.has_append()) {
    request.mutable_append()->set_request_key(RandomRequestKey());
  }
  if (!status_.has_value()) stream_->Send(request);
  pending_[id].request = std::move(request);
  return id;
}

void SessionCall::Cancel() {
  v1::SessionRequest request;
  request.mutable_cancel();
  absl::MutexLock lock(&mutex_);
  request.set_request_id(++last_id_);
  if (!status_.has_value()) stream_->Send(std::move(request));
  for (auto& [id, command] : pending_) command.cancelled = command.request.has_generate();
}

void SessionCall::Grant(int64_t tokens) {
  v1::SessionRequest request;
  request.mutable_credit()->set_tokens(tokens);
  absl::MutexLock lock(&mutex_);
  request.set_request_id(++last_id_);
  owed_ -= tokens;
  // A stream to come begins with what is not owed then.
  if (!status_.has_value()) stream_->Send(std::move(request));
}

void SessionCall::Forget(uint64_t request_id) {
  absl::MutexLock lock(&mutex_);
  waiting_.erase(request_id);
  pending_.erase(request_id);
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

absl::StatusOr<v1::SessionResponse> SessionCall::Next(uint64_t request_id, absl::Duration timeout,
                                                      bool resume) {
  const absl::Time deadline = absl::Now() + timeout;
  absl::MutexLock lock(&mutex_);
  EventQueue& queue = waiting_[request_id];
  const auto ready = [&] {
    mutex_.AssertReaderHeld();
    return Ready(queue);
  };
  do {
    if (!mutex_.AwaitWithDeadline(absl::Condition(&ready), deadline)) {
      return absl::DeadlineExceededError("the server did not answer in time");
    }
    if (queue.empty()) continue;
    v1::SessionResponse event = std::move(queue.front());
    queue.pop_front();
    if (!event.has_error()) return event;
    return absl::Status(static_cast<absl::StatusCode>(event.error().code()),
                        event.error().message());
  } while (resume && Reopen(deadline));
  if (!status_->ok()) return *status_;
  return absl::UnavailableError("the session's stream has ended");
}

bool SessionCall::CanResume() const {
  return MayResume() && !open_.session_id().empty() && BrokeOff(*status_);
}

bool SessionCall::Reopen(absl::Time deadline) {
  if (!CanResume()) return false;
  const std::optional<absl::Duration> pause = retries_.Next(*status_);
  if (!pause.has_value()) return false;
  mutex_.AwaitWithDeadline(absl::Condition(&aborted_), std::min(absl::Now() + *pause, deadline));
  if (aborted_) return false;
  status_.reset();
  open_.set_initial_credit(std::max<int64_t>(1, credit_ - owed_));
  StartStream();
  bool in_turn = false;
  for (auto& [id, command] : pending_) {
    command.unclear = in_turn && command.request.has_append();
    if (command.unclear) continue;
    if (command.request.has_generate()) {
      in_turn = true;
      // The first one: the session as the server has it now may be older than what came from it.
      const bool is_next = id == pending_.begin()->first && sequence_.last() > 0;
      if (command.begun || is_next) {
        command.request.mutable_generate()->set_after(sequence_.last());
      }
    }
    stream_->Send(command.request);
    if (!command.cancelled) continue;
    v1::SessionRequest cancel;
    cancel.set_request_id(++last_id_);
    cancel.mutable_cancel();
    stream_->Send(std::move(cancel));
  }
  return true;
}

void SessionCall::Abort() {
  std::shared_ptr<SessionStream> stream;
  {
    absl::MutexLock lock(&mutex_);
    aborted_ = true;
    stream = stream_;
  }
  stream->Abort();
}

bool SessionCall::over() const {
  absl::MutexLock lock(&mutex_);
  if (ended_) return true;
  return status_.has_value() ? !CanResume() : (stream_->over() && !MayResume());
}

int SessionCall::resumes() const {
  absl::MutexLock lock(&mutex_);
  return attempt_ - 1;
}

void SessionCall::Settle(v1::SessionResponse& event) {
  const auto command = pending_.find(event.request_id());
  if (command == pending_.end()) return;
  const bool of_turn = command->second.request.has_generate();
  const auto unclear = std::find_if(pending_.begin(), pending_.end(),
                                    [](const auto& entry) { return entry.second.unclear; });
  command->second.begun = true;
  if (event.has_appended() && of_turn) {
    if (unclear == pending_.end()) return;
    event.set_request_id(unclear->first);  // it had entered
    pending_.erase(unclear);
  } else if (event.has_finished() && of_turn) {
    // What has not entered by now never came to the server.
    for (auto& [id, later] : pending_) {
      if (std::exchange(later.unclear, false)) stream_->Send(later.request);
    }
    pending_.erase(command);
  } else if (!event.has_started() && !event.has_tokens() && !event.has_heartbeat()) {
    pending_.erase(command);
  }
}

void SessionCall::OnEvent(int attempt, v1::SessionResponse event) {
  absl::MutexLock lock(&mutex_);
  if (attempt != attempt_ || !broken_.ok()) return;  // only the end of the stream is waited for
  int64_t numbers = 1;
  if (event.has_tokens()) numbers = event.tokens().tokens_size();
  broken_ =
      sequence_.Accept(event.sequence(), numbers, event.has_started() || event.has_appended());
  if (!broken_.ok()) return stream_->Abort();
  if (event.sequence() > 0) retries_.Progress();
  if (event.has_tokens()) owed_ += numbers;
  if (event.has_opened()) open_.set_session_id(event.opened().session_id());
  ended_ = ended_ || event.has_ended();
  Settle(event);
  const auto queue = waiting_.find(event.request_id());
  if (queue != waiting_.end() && !event.has_heartbeat()) queue->second.push_back(std::move(event));
}

void SessionCall::OnOver(int attempt, absl::Status status) {
  absl::MutexLock lock(&mutex_);
  if (attempt != attempt_) return;
  if (!broken_.ok()) status = broken_;
  if (status.ok() && !ended_) {
    status = absl::UnavailableError("the session's stream ended without the server's goodbye");
  }
  status_ = std::move(status);
}

}  // namespace gma::client
