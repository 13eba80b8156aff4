#include "client/lib/call.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "client/lib/status.h"
#include "grpcpp/client_context.h"

namespace gma::client {
namespace {

// Keeps itself alive until OnDone.
class Reactor final : public grpc::ClientReadReactor<v1::GenerateResponse>, public GenerateCall {
 public:
  Reactor(const StreamEnvironment& env, v1::GenerateRequest request, GenerateHandler handler);
  void Start(const StreamEnvironment& env, absl::Duration timeout, std::shared_ptr<Reactor> self);

  void Cancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void Resume() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& grpc_status) override;

 private:
  // False: Resume or Cancel came first, so there is nothing to wait for.
  bool Pause() ABSL_LOCKS_EXCLUDED(mutex_);
  void ReadOn();

  std::optional<StreamCount::Token> token_;  // nothing: the call is over
  const v1::GenerateRequest request_;
  const GenerateHandler handler_;
  int32_t unfinished_;  // candidates
  SequenceCheck sequence_;
  absl::Status broken_;  // why this side gave the stream up
  v1::GenerateResponse event_;
  std::shared_ptr<Reactor> self_;

  absl::Mutex mutex_;
  std::optional<grpc::ClientContext> context_ ABSL_GUARDED_BY(mutex_);  // nothing: as token_
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool resumed_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

Reactor::Reactor(const StreamEnvironment& env, v1::GenerateRequest request, GenerateHandler handler)
    : token_(std::in_place, env.streams),
      request_(std::move(request)),
      handler_(std::move(handler)),
      unfinished_(std::max(request_.n(), 1)),
      context_(std::in_place) {}

void Reactor::Start(const StreamEnvironment& env, absl::Duration timeout,
                    std::shared_ptr<Reactor> self) {
  self_ = std::move(self);
  absl::MutexLock lock(&mutex_);
  if (!env.authorization.empty()) context_->AddMetadata("authorization", env.authorization);
  if (timeout != absl::InfiniteDuration()) {
    context_->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
  env.stub.async()->Generate(&*context_, &request_, this);
  StartRead(&event_);
  StartCall();
}

void Reactor::OnReadDone(bool ok) {
  if (!ok) return;  // OnDone follows
  int64_t numbers = 1;
  if (event_.has_tokens()) numbers = event_.tokens().tokens_size();
  if (event_.has_finished()) --unfinished_;
  if (broken_.ok()) {
    broken_ = sequence_.Accept(event_.sequence(), numbers, event_.has_started());
    if (!broken_.ok()) Cancel();
  }
  if (!broken_.ok() || handler_.on_event(event_) || !Pause()) StartRead(&event_);
}

void Reactor::OnDone(const grpc::Status& grpc_status) {
  const std::shared_ptr<Reactor> self = std::move(self_);
  absl::Status status = broken_;
  {
    absl::MutexLock lock(&mutex_);
    if (status.ok()) status = StatusOfCall(grpc_status, *context_);
    context_.reset();
  }
  if (status.ok() && unfinished_ > 0) {
    status = absl::UnavailableError("the stream ended before the answer did");
  }
  handler_.on_done(std::move(status));
  token_.reset();
}

void Reactor::Cancel() {
  {
    absl::MutexLock lock(&mutex_);
    if (context_.has_value()) context_->TryCancel();
    cancelled_ = true;
    if (!paused_) return;
    paused_ = false;
  }
  ReadOn();
}

void Reactor::Resume() {
  {
    absl::MutexLock lock(&mutex_);
    if (!paused_) {
      resumed_ = true;
      return;
    }
    paused_ = false;
  }
  ReadOn();
}

bool Reactor::Pause() {
  absl::MutexLock lock(&mutex_);
  if (cancelled_ || std::exchange(resumed_, false)) return false;
  // With no read in flight the call could end, and this reactor with it, before Resume.
  AddHold();
  paused_ = true;
  return true;
}

void Reactor::ReadOn() {
  StartRead(&event_);
  RemoveHold();
}

// The blocking side: a bounded queue between the reactor and one reader.
class QueuedStream final : public AnswerStream {
 public:
  QueuedStream(int32_t candidates, size_t capacity)
      : AnswerStream(candidates), shared_(std::make_shared<Shared>()), capacity_(capacity) {}

  ~QueuedStream() override { call_->Cancel(); }

  void Start(const StreamEnvironment& env, v1::GenerateRequest request, absl::Duration timeout) {
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
    call_ = StartGenerate(env, std::move(request), timeout, std::move(handler));
  }

  bool Wait(absl::Duration timeout) override {
    absl::MutexLock lock(&shared_->mutex);
    return shared_->mutex.AwaitWithTimeout(absl::Condition(shared_.get(), &Shared::Ready), timeout);
  }

  void Cancel() override { call_->Cancel(); }

 private:
  struct Shared {
    bool Ready() const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
      return !events.empty() || done.has_value();
    }

    absl::Mutex mutex;
    std::deque<v1::GenerateResponse> events ABSL_GUARDED_BY(mutex);
    bool full ABSL_GUARDED_BY(mutex) = false;  // the call was paused
    std::optional<absl::Status> done ABSL_GUARDED_BY(mutex);
  };

  absl::StatusOr<std::optional<v1::GenerateResponse>> NextEvent() override {
    std::optional<v1::GenerateResponse> event;
    bool resume = false;
    {
      absl::MutexLock lock(&shared_->mutex);
      shared_->mutex.Await(absl::Condition(shared_.get(), &Shared::Ready));
      if (shared_->events.empty()) {
        if (!shared_->done->ok()) return *shared_->done;
        return event;
      }
      event = std::move(shared_->events.front());
      shared_->events.pop_front();
      resume = std::exchange(shared_->full, false);
    }
    if (resume) call_->Resume();
    return event;
  }

  const std::shared_ptr<Shared> shared_;
  const size_t capacity_;
  std::shared_ptr<GenerateCall> call_;
};

}  // namespace

StreamCount::Token::Token(StreamCount& count) : count_(count) {
  absl::MutexLock lock(&count_.mutex_);
  ++count_.streams_;
}

StreamCount::Token::~Token() {
  absl::MutexLock lock(&count_.mutex_);
  --count_.streams_;
}

void StreamCount::WaitForNone() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &StreamCount::None));
}

std::shared_ptr<GenerateCall> StartGenerate(const StreamEnvironment& env,
                                            v1::GenerateRequest request, absl::Duration timeout,
                                            GenerateHandler handler) {
  auto reactor = std::make_shared<Reactor>(env, std::move(request), std::move(handler));
  reactor->Start(env, timeout, reactor);
  return reactor;
}

std::unique_ptr<AnswerStream> StreamGenerate(const StreamEnvironment& env,
                                             v1::GenerateRequest request, absl::Duration timeout,
                                             size_t capacity) {
  const int32_t candidates = std::max(request.n(), 1);
  auto stream = std::make_unique<QueuedStream>(candidates, capacity);
  stream->Start(env, std::move(request), timeout);
  return stream;
}

}  // namespace gma::client
