#include "client/loadgen/runner.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gma::client {
namespace {

constexpr absl::Duration kReportPeriod = absl::Milliseconds(500);

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

}  // namespace

Runner::Runner(const LoadFlags& flags, std::vector<Client*> clients, int32_t vocab_size)
    : flags_(flags), clients_(std::move(clients)), vocab_size_(vocab_size) {}

bool Runner::MayStart(absl::Time due) const {
  if (stopped_ || (flags_.requests > 0 && started_ >= flags_.requests)) return false;
  if (flags_.duration > 0 && due >= begin_ + absl::Seconds(flags_.duration)) return false;
  return flags_.rate > 0 || running_ < flags_.streams;
}

LoadResult Runner::Run(const std::function<void(const Progress&)>& report) {
  begin_ = absl::Now();
  std::optional<Arrivals> arrivals;
  if (flags_.rate > 0) arrivals.emplace(flags_);
  absl::Time due = begin_ + (arrivals ? arrivals->Next() : absl::ZeroDuration());
  absl::Time next_report = begin_ + kReportPeriod;
  for (;;) {
    WakeSlowReaders();
    std::optional<Progress> progress;
    int64_t start_index = -1;
    {
      absl::MutexLock lock(&mutex_);
      const absl::Time now = absl::Now();
      // In a closed loop a request is due when there is room for it.
      if (!arrivals) due = now;
      const bool more = MayStart(due);
      if (more && due <= now) {
        start_index = started_++;
        ++running_;
      } else if (running_ == 0 && (!more || !arrivals)) {
        break;
      } else {
        absl::Time until = next_report;
        if (more) until = std::min(until, due);
        if (!wakeups_.empty()) until = std::min(until, wakeups_.top().at);
        changed_.WaitWithDeadline(&mutex_, until);
      }
      if (absl::Now() >= next_report) {
        next_report = absl::Now() + kReportPeriod;
        progress = Progress{running_, result_.succeeded, result_.failed, tokens_,
                            Seconds(absl::Now() - begin_)};
      }
    }
    if (start_index >= 0) {
      Start(start_index, due);
      if (arrivals) due = begin_ + arrivals->Next();
    }
    if (progress.has_value() && report) report(*progress);
  }
  absl::MutexLock lock(&mutex_);
  result_.started = started_;
  if (started_ > 0) result_.wall_seconds = Seconds(last_end_ - begin_);
  return std::move(result_);
}

void Runner::Start(int64_t index, absl::Time due) {
  auto request = std::make_shared<Request>();
  request->plan = PlanRequest(flags_, vocab_size_, index);
  request->due = due;
  GenerateHandler handler;
  handler.on_event = [this, index, request](v1::GenerateResponse& event) {
    return OnEvent(index, *request, event);
  };
  handler.on_done = [this, index, request](absl::Status status) {
    OnDone(index, *request, std::move(status));
  };
  Client& client = *clients_[static_cast<size_t>(index) % clients_.size()];
  // Held until the call is in the map: its end must find it there.
  absl::MutexLock lock(&mutex_);
  calls_[index] =
      client.Generate(request->plan.request, std::move(handler), absl::Seconds(flags_.timeout));
  if (stopped_) calls_[index]->Cancel();
}

bool Runner::OnEvent(int64_t index, Request& request, v1::GenerateResponse& event) {
  if (event.has_tokens()) OnTokens(request, event.tokens().tokens_size());
  if (event.has_finished()) {
    request.prompt_tokens = event.finished().usage().prompt_tokens();
    request.tokens_promised = event.finished().usage().completion_tokens();
  }
  const int64_t count = event.has_tokens() ? event.tokens().tokens_size() : 0;
  const bool cancel = request.plan.cancel_after > 0 &&
                      request.tokens >= request.plan.cancel_after && !request.cancelled;
  std::shared_ptr<GenerateCall> call;
  {
    absl::MutexLock lock(&mutex_);
    tokens_ += count;
    call = CallOf(index);
    if (request.plan.slow && !stopped_) {
      wakeups_.push({absl::Now() + absl::Seconds(flags_.slow_read_delay), index});
      changed_.Signal();
    }
  }
  if (cancel) {
    request.cancelled = true;
    call->Cancel();
  }
  return !request.plan.slow;
}

void Runner::OnTokens(Request& request, int64_t count) {
  const absl::Time now = absl::Now();
  if (request.tokens == 0) {
    request.first_token = Seconds(now - request.due);
    --count;  // those that came with the first one came after no time at all
    ++request.tokens;
    request.token_gaps.insert(request.token_gaps.end(), static_cast<size_t>(count), 0.0);
  } else {
    const double gap = Seconds(now - request.last_message);
    request.message_gaps.push_back(gap);
    request.token_gaps.insert(request.token_gaps.end(), static_cast<size_t>(count),
                              gap / static_cast<double>(count));
  }
  request.tokens += count;
  request.last_message = now;
}

void Runner::OnDone(int64_t index, const Request& request, absl::Status status) {
  const absl::Time now = absl::Now();
  if (status.ok() && request.tokens_promised != request.tokens) {
    status = absl::DataLossError(absl::StrCat("the server counted ", request.tokens_promised,
                                              " tokens and sent ", request.tokens));
  }
  absl::MutexLock lock(&mutex_);
  result_.prompt_tokens += request.prompt_tokens;
  result_.completion_tokens += request.tokens;
  if (request.plan.slow) ++result_.slow;
  const bool by_us = request.cancelled || stopped_;
  if (absl::IsCancelled(status) && by_us) {
    ++result_.cancelled;
  } else if (!status.ok()) {
    ++result_.failed;
    ErrorCount& error = result_.errors[absl::StatusCodeToString(status.code())];
    if (++error.count == 1) error.example = std::string(status.message());
  } else {
    ++result_.succeeded;
    if (!request.plan.slow) {
      if (request.first_token >= 0) result_.first_token.Add(request.first_token);
      result_.inter_token.Add(request.token_gaps);
      result_.inter_message.Add(request.message_gaps);
      result_.end_to_end.Add(Seconds(now - request.due));
    }
  }
  last_end_ = now;
  calls_.erase(index);
  --running_;
  changed_.Signal();
}

std::shared_ptr<GenerateCall> Runner::CallOf(int64_t index) const {
  const auto call = calls_.find(index);
  return call == calls_.end() ? nullptr : call->second;
}

void Runner::WakeSlowReaders() {
  std::vector<std::shared_ptr<GenerateCall>> due;
  {
    absl::MutexLock lock(&mutex_);
    while (!wakeups_.empty() && wakeups_.top().at <= absl::Now()) {
      if (auto call = CallOf(wakeups_.top().index)) due.push_back(std::move(call));
      wakeups_.pop();
    }
  }
  for (const auto& call : due) call->Resume();
}

void Runner::Stop() {
  std::vector<std::shared_ptr<GenerateCall>> running;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    for (const auto& [index, call] : calls_) running.push_back(call);
    changed_.Signal();
  }
  for (const auto& call : running) call->Cancel();
}

}  // namespace gma::client
