#include "client/lib/session.h"

#include <utility>

#include "base/status_macros.h"
#include "client/lib/session_call.h"

namespace gma::client {
namespace {

constexpr int64_t kDefaultCredit = 256;  // tokens on the way to a reader that was not asked for

// The answer to one SessionGenerate.
class SessionAnswer final : public AnswerStream {
 public:
  SessionAnswer(std::shared_ptr<SessionCall> call, uint64_t request_id, int64_t credit)
      : AnswerStream(/*candidates=*/1),
        call_(std::move(call)),
        request_id_(request_id),
        credit_(credit),
        resumes_before_(call_->resumes()) {}

  // The server serves one turn at a time: the next command must find this one ended.
  ~SessionAnswer() override {
    leaving_ = true;
    if (!complete() && !failed_) Cancel();
    while (!complete() && !failed_) Next().IgnoreError();
    if (ungranted_ > 0 && !call_->over()) Grant();
    call_->Forget(request_id_);
  }

  bool Wait(absl::Duration timeout) override { return call_->Wait(request_id_, timeout); }

  void Cancel() override { call_->Cancel(); }
  int resumes() const override { return call_->resumes() - resumes_before_; }

 private:
  absl::StatusOr<std::optional<v1::GenerateResponse>> NextEvent() override {
    absl::StatusOr<v1::SessionResponse> next =
        call_->Next(request_id_, absl::InfiniteDuration(), /*resume=*/!leaving_);
    failed_ = !next.ok();
    GMA_ASSIGN_OR_RETURN(v1::SessionResponse event, std::move(next));
    v1::GenerateResponse response;
    response.set_sequence(event.sequence());
    if (event.has_started()) {
      *response.mutable_started() = std::move(*event.mutable_started());
    } else if (event.has_finished()) {
      *response.mutable_finished() = std::move(*event.mutable_finished());
    } else if (event.has_appended()) {
      *response.mutable_appended() = std::move(*event.mutable_appended());
    } else if (event.has_tokens()) {
      ungranted_ += event.tokens().tokens_size();
      *response.mutable_tokens() = std::move(*event.mutable_tokens());
      if (2 * ungranted_ >= credit_) Grant();  // half of it still flows meanwhile
    }
    return std::optional<v1::GenerateResponse>(std::move(response));
  }

  void Grant() { call_->Grant(std::exchange(ungranted_, 0)); }

  const std::shared_ptr<SessionCall> call_;
  const uint64_t request_id_;
  const int64_t credit_;
  const int resumes_before_;
  bool leaving_ = false;   // nobody wants the rest
  bool failed_ = false;    // the command or the stream; there is no turn to end
  int64_t ungranted_ = 0;  // tokens consumed since credit was granted last
};

}  // namespace

absl::StatusOr<std::unique_ptr<Session>> Session::Open(const StreamEnvironment& env,
                                                       v1::SessionOpen open,
                                                       absl::Duration deadline) {
  if (open.initial_credit() == 0) open.set_initial_credit(kDefaultCredit);
  const int64_t credit = open.initial_credit();
  std::shared_ptr<SessionCall> call = SessionCall::Start(env, std::move(open));
  constexpr uint64_t kId = SessionCall::kOpenId;
  absl::StatusOr<v1::SessionResponse> event = call->Next(kId, deadline);
  call->Forget(kId);
  if (event.ok() && !event->has_opened()) {
    event = absl::InternalError("the server did not answer `open` with `opened`");
  }
  if (!event.ok()) {
    call->Abort();
    return event.status();
  }
  return std::unique_ptr<Session>(
      new Session(std::move(call), std::move(*event->mutable_opened()), credit, deadline));
}

Session::Session(std::shared_ptr<SessionCall> call, v1::SessionOpened opened, int64_t credit,
                 absl::Duration deadline)
    : call_(std::move(call)), opened_(std::move(opened)), credit_(credit), deadline_(deadline) {}

Session::~Session() { call_->Abort(); }

std::optional<uint64_t> Session::last_sequence() const { return call_->last_sequence(); }

bool Session::broken() const { return call_->over(); }

absl::StatusOr<int64_t> Session::Append(v1::Input input) {
  v1::SessionRequest request;
  *request.mutable_append()->mutable_input() = std::move(input);
  const uint64_t id = call_->Send(std::move(request));
  const absl::StatusOr<v1::SessionResponse> event = call_->Next(id, absl::InfiniteDuration());
  call_->Forget(id);
  GMA_RETURN_IF_ERROR(event.status());
  return event->appended().context_tokens();
}

std::unique_ptr<AnswerStream> Session::Generate(v1::SessionGenerate command) {
  v1::SessionRequest request;
  *request.mutable_generate() = std::move(command);
  const uint64_t id = call_->Send(std::move(request));
  return std::make_unique<SessionAnswer>(call_, id, credit_);
}

absl::StatusOr<int64_t> Session::End() {
  v1::SessionRequest request;
  request.mutable_end();
  const uint64_t id = call_->Send(std::move(request));
  const absl::StatusOr<v1::SessionResponse> event = call_->Next(id, deadline_);
  call_->Forget(id);
  GMA_RETURN_IF_ERROR(event.status());
  return event->ended().context_tokens();
}

}  // namespace gma::client
