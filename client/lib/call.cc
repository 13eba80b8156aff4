#include "client/lib/call.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include "absl/synchronization/mutex.h"
#include "client/lib/call_metadata.h"
#include "client/lib/status.h"
#include "grpcpp/client_context.h"

namespace gma::client {
namespace {

// Keeps itself alive until OnDone.
class Reactor final : public grpc::ClientReadReactor<v1::GenerateResponse>, public GenerateCall {
 public:
  Reactor(const StreamEnvironment& env, StreamRequest request, GenerateHandler handler);
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
  Targets& targets_;
  Target& target_;
  const StreamRequest request_;
  const GenerateHandler handler_;
  int32_t unfinished_ = 0;  // candidates that must end; a Resume may have nothing to tell
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

Reactor::Reactor(const StreamEnvironment& env, StreamRequest request, GenerateHandler handler)
    : token_(std::in_place, env.streams),
      targets_(env.targets),
      target_(targets_.current()),
      request_(std::move(request)),
      handler_(std::move(handler)),
      context_(std::in_place) {
  if (const auto* generate = std::get_if<v1::GenerateRequest>(&request_)) {
    unfinished_ = std::max(generate->n(), 1);
    if (generate->has_after()) sequence_ = SequenceCheck(generate->after());
  } else {
    sequence_ = SequenceCheck(std::get<v1::ResumeRequest>(request_).after());
  }
}

void Reactor::Start(const StreamEnvironment& env, absl::Duration timeout,
                    std::shared_ptr<Reactor> self) {
  self_ = std::move(self);
  absl::MutexLock lock(&mutex_);
  AddMetadata(*context_, env.authorization,
              std::visit([](const auto& request) { return request.session_id(); }, request_));
  if (timeout != absl::InfiniteDuration()) {
    context_->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
  if (const auto* generate = std::get_if<v1::GenerateRequest>(&request_)) {
    target_.generation.async()->Generate(&*context_, generate, this);
  } else {
    target_.generation.async()->Resume(&*context_, &std::get<v1::ResumeRequest>(request_), this);
  }
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
  if (BrokeOff(status)) targets_.Leave(target_);
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

std::shared_ptr<GenerateCall> StartGenerate(const StreamEnvironment& env, StreamRequest request,
                                            absl::Duration timeout, GenerateHandler handler) {
  auto reactor = std::make_shared<Reactor>(env, std::move(request), std::move(handler));
  reactor->Start(env, timeout, reactor);
  return reactor;
}

}  // namespace gma::client
