#include "client/lib/session_call.h"

#include <algorithm>
#include <utility>

namespace gma::client {
namespace {

absl::Status StatusOf(const v1::SessionError& error) {
  return absl::Status(static_cast<absl::StatusCode>(error.code()), error.message());
}

std::optional<uint64_t> AfterOf(const v1::SessionRequest& request) {
  if (request.generate().has_after()) return request.generate().after();
  if (request.append().has_after()) return request.append().after();
  return std::nullopt;
}

}  // namespace

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
  pending_[id].request = std::move(request);
  SendDue();
  return id;
}

void SessionCall::SendDue() {
  if (status_.has_value()) return;  // a stream to come has them all
  bool in_turn = false;
  for (auto& [id, command] : pending_) {
    if (command.unclear) return;
    if (!command.sent) SendNow(command);
    in_turn |= command.request.has_generate();
    if (!in_turn) return;
  }
}

void SessionCall::SendNow(Pending& command) {
  const auto set_number = [&](auto& turn) {
    mutex_.AssertHeld();
    // What has begun goes on behind what came of it.
    command.numbered = command.numbered || command.begun || !turn.has_after();
    if (!command.numbered) return;
    turn.clear_after();
    if (knows_last_) turn.set_after(sequence_.last());
  };
  v1::SessionRequest& request = command.request;
  if (MayResume() && request.has_generate()) set_number(*request.mutable_generate());
  if (MayResume() && request.has_append()) set_number(*request.mutable_append());
  command.sent = true;
  stream_->Send(request);
  if (!command.cancelled) return;
  v1::SessionRequest cancel;
  cancel.set_request_id(++last_id_);
  cancel.mutable_cancel();
  stream_->Send(std::move(cancel));
}

void SessionCall::Erase(std::map<uint64_t, Pending>::iterator command) {
  if (command->second.request.has_generate()) {
    // What has not entered by now never came to the server.
    for (auto& [id, later] : pending_) later.unclear = false;
  }
  pending_.erase(command);
  SendDue();
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
  absl::MutexLock lock(&mutex_);
  const int64_t before = std::min(tokens, unread_);
  unread_ -= before;
  if (tokens > before) SendCredit(tokens - before);
}

void SessionCall::GrantUnread(int64_t tokens) {
  for (const auto& [id, command] : pending_) {
    if (!command.unclear) continue;
    unread_ += tokens;
    return SendCredit(tokens);
  }
}

void SessionCall::SendCredit(int64_t tokens) {
  owed_ -= tokens;
  if (status_.has_value()) return;  // a stream to come begins with what is not owed then
  v1::SessionRequest request;
  request.set_request_id(++last_id_);
  request.mutable_credit()->set_tokens(tokens);
  stream_->Send(std::move(request));
}

void SessionCall::Forget(uint64_t request_id) {
  absl::MutexLock lock(&mutex_);
  waiting_.erase(request_id);
  const auto command = pending_.find(request_id);
  if (command != pending_.end()) Erase(command);
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
    return StatusOf(event.error());
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
    command.again |= std::exchange(command.sent, false);
    command.unclear = in_turn && command.again && command.request.has_append();
    in_turn |= command.request.has_generate();
  }
  SendDue();
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

std::optional<uint64_t> SessionCall::last_sequence() const {
  absl::MutexLock lock(&mutex_);
  if (!knows_last_ || !pending_.empty()) return std::nullopt;
  return sequence_.last();
}

bool SessionCall::Settle(v1::SessionResponse& event) {
  const auto found = pending_.find(event.request_id());
  if (found == pending_.end()) return true;
  Pending& command = found->second;
  const std::optional<uint64_t> after = AfterOf(command.request);
  const absl::Status error = event.has_error() ? StatusOf(event.error()) : absl::OkStatus();
  if (absl::IsAborted(error) && !BrokeOff(error) && after.has_value() && command.numbered &&
      !command.again && !command.begun) {
    // Only its number was wrong, and it was not done: the turn that it was meant to enter has ended
    // meanwhile, or somebody else used the session.
    if (*after == sequence_.last()) knows_last_ = false;
    command.sent = false;
    SendDue();
    return false;
  }
  command.begun = true;
  if (event.has_appended() && command.request.has_generate()) {
    const auto unclear = std::find_if(pending_.begin(), pending_.end(),
                                      [](const auto& entry) { return entry.second.unclear; });
    if (unclear == pending_.end()) return true;
    event.set_request_id(unclear->first);  // it had entered
    Erase(unclear);
  } else if (!event.has_started() && !event.has_tokens() && !event.has_heartbeat()) {
    Erase(found);
  }
  return true;
}

void SessionCall::TakeOpened(const v1::SessionOpened& opened) {
  open_.set_session_id(opened.session_id());
  // Later on, events of what is pending may be among those that the server counts.
  if (sequence_.last() > 0 || !pending_.empty() || opened.turn_active()) return;
  if (open_.has_resume_after()) return;
  sequence_ = SequenceCheck(opened.last_sequence());
  knows_last_ = true;
}

void SessionCall::OnEvent(int attempt, v1::SessionResponse event) {
  absl::MutexLock lock(&mutex_);
  if (attempt != attempt_ || !broken_.ok()) return;  // only the end of the stream is waited for
  int64_t numbers = 1;
  if (event.has_tokens()) numbers = event.tokens().tokens_size();
  broken_ =
      sequence_.Accept(event.sequence(), numbers, event.has_started() || event.has_appended());
  if (!broken_.ok()) return stream_->Abort();
  if (event.sequence() > 0) {
    retries_.Progress();
    knows_last_ = true;
  }
  if (event.has_tokens()) {
    owed_ += numbers;
    GrantUnread(numbers);
  }
  if (event.has_opened()) TakeOpened(event.opened());
  ended_ = ended_ || event.has_ended();
  if (!Settle(event)) return;
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
