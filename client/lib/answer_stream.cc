// An answer that one thread reads, over as many calls as it takes.
#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "client/lib/call.h"

namespace gma::client {
namespace {

int32_t CandidatesOf(const StreamRequest& request) {
  const auto* generate = std::get_if<v1::GenerateRequest>(&request);
  return generate == nullptr ? 1 : std::max(generate->n(), 1);
}

// A bounded queue between the call and its reader, who makes the next call when one breaks off.
class QueuedStream final : public AnswerStream {
 public:
  QueuedStream(const StreamEnvironment& env, StreamRequest request, absl::Duration timeout,
               size_t capacity)
      : AnswerStream(CandidatesOf(request)),
        env_(env),
        end_(absl::Now() + timeout),
        capacity_(capacity),
        progress_(std::move(request), env.resume_for > absl::ZeroDuration()),
        retries_(env.resume_for) {
    absl::MutexLock lock(&shared_->mutex);
    StartCall();
  }

  ~QueuedStream() override { Cancel(); }

  bool Wait(absl::Duration timeout) override {
    absl::MutexLock lock(&shared_->mutex);
    return shared_->mutex.AwaitWithTimeout(absl::Condition(shared_.get(), &Shared::Ready), timeout);
  }

  void Cancel() override {
    std::shared_ptr<GenerateCall> call;
    {
      absl::MutexLock lock(&shared_->mutex);
      shared_->cancelled = true;
      call = shared_->call;
    }
    call->Cancel();
  }

  int resumes() const override { return resumes_; }

 private:
  struct Shared {
    bool Ready() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
      return !events.empty() || done.has_value();
    }

    absl::Mutex mutex;
    std::shared_ptr<GenerateCall> call ABSL_GUARDED_BY(mutex);
    std::deque<v1::GenerateResponse> events ABSL_GUARDED_BY(mutex);
    bool full ABSL_GUARDED_BY(mutex) = false;  // the call was paused
    std::optional<absl::Status> done ABSL_GUARDED_BY(mutex);
    bool cancelled ABSL_GUARDED_BY(mutex) = false;
  };

  void StartCall() ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    GenerateHandler handler;
    handler.on_event = [shared = shared_, capacity = capacity_](v1::GenerateResponse& event) {
      absl::MutexLock lock(&shared->mutex);
      shared->events.push_back(std::move(event));
      shared->full = shared->events.size() >= capacity;
      return !shared->full;
    };
    handler.on_done = [shared = shared_](absl::Status status) {
      absl::MutexLock lock(&shared->mutex);
      shared->done = std::move(status);
    };
    shared_->done.reset();
    shared_->call =
        StartGenerate(env_, progress_.request(), end_ - absl::Now(), std::move(handler));
  }

  absl::StatusOr<std::optional<v1::GenerateResponse>> NextEvent() override {
    for (;;) {
      std::optional<v1::GenerateResponse> event = Take();
      if (!event.has_value()) {
        GMA_ASSIGN_OR_RETURN(const bool again, StartAgain());
        if (!again) return event;
        continue;
      }
      GMA_ASSIGN_OR_RETURN(const bool left, progress_.Accept(*event));
      if (!left) continue;
      if (event->sequence() > 0) retries_.Progress();
      return event;
    }
  }

  // The next event; nothing: the call is over.
  std::optional<v1::GenerateResponse> Take() {
    std::optional<v1::GenerateResponse> event;
    std::shared_ptr<GenerateCall> paused;
    {
      absl::MutexLock lock(&shared_->mutex);
      shared_->mutex.Await(absl::Condition(shared_.get(), &Shared::Ready));
      if (shared_->events.empty()) return event;
      event = std::move(shared_->events.front());
      shared_->events.pop_front();
      if (std::exchange(shared_->full, false)) paused = shared_->call;
    }
    if (paused != nullptr) paused->Resume();
    return event;
  }

  // After the end of a call: makes another one, after a while, if it broke off; else false, or why
  // the call failed.
  absl::StatusOr<bool> StartAgain() {
    absl::MutexLock lock(&shared_->mutex);
    const absl::Status status = *shared_->done;
    if (status.ok()) return false;
    // Nobody is refused for good because a queue is full while the answer is under way.
    const bool wait = BrokeOff(status) || (resumes_ > 0 && absl::IsResourceExhausted(status));
    if (!progress_.resumable() || shared_->cancelled || !wait) return status;
    const std::optional<absl::Duration> pause = retries_.Next(status);
    if (!pause.has_value()) return status;
    if (shared_->mutex.AwaitWithTimeout(absl::Condition(&shared_->cancelled), *pause)) {
      return absl::CancelledError("the answer was cancelled");
    }
    ++resumes_;
    progress_.Again();
    StartCall();
    return true;
  }

  const StreamEnvironment env_;
  const absl::Time end_;
  const size_t capacity_;
  AnswerProgress progress_;
  Retries retries_;
  int resumes_ = 0;
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace

std::unique_ptr<AnswerStream> StreamAnswer(const StreamEnvironment& env, StreamRequest request,
                                           absl::Duration timeout, size_t capacity) {
  return std::make_unique<QueuedStream>(env, std::move(request), timeout, capacity);
}

}  // namespace gma::client
