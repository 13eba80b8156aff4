#include "client/lib/resume.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/lib/status.h"

namespace gma::client {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(50), kLongestPause = absl::Seconds(2);

}  // namespace

bool BrokeOff(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kUnknown:
      return true;
    case absl::StatusCode::kInternal:   // also the server's, for logits that are not finite
    case absl::StatusCode::kCancelled:  // also this side's
      return absl::StrContains(status.message(), "RST_STREAM");
    case absl::StatusCode::kAborted:  // also for what another client does
      return absl::StrContains(status.message(), "moved to another server");
    default:
      return false;
  }
}

std::optional<absl::Duration> Retries::Next(const absl::Status& why) {
  const absl::Time now = absl::Now();
  if (!until_.has_value()) {
    until_ = now + total_;
    pause_ = kFirstPause;
  }
  // Many clients lose one server at once, and should not come to the next one all together.
  absl::Duration pause = pause_ * absl::Uniform(random_, 0.5, 1.0);
  pause = std::max(pause, RetryAfter(why).value_or(absl::ZeroDuration()));
  pause_ = std::min(2 * pause_, kLongestPause);
  if (now + pause > *until_) return std::nullopt;
  return pause;
}

std::string RandomRequestKey() {
  absl::BitGen random;
  std::string key(16, '\0');
  for (char& c : key) c = static_cast<char>(absl::Uniform<uint16_t>(random, 0, 256));
  return key;
}

AnswerProgress::AnswerProgress(StreamRequest request, bool resume)
    : request_(std::move(request)), resume_(resume) {
  auto* const generate = std::get_if<v1::GenerateRequest>(&request_);
  if (generate == nullptr) return;
  is_private_ = generate->session_id().empty();
  if (is_private_) {
    resume_ = resume_ && generate->n() <= 1;
  } else if (resume_ && generate->request_key().empty()) {
    generate->set_request_key(RandomRequestKey());
  }
}

void AnswerProgress::Again() {
  if (last_ == 0) return;  // nothing has begun, as far as anybody here knows
  if (auto* const resume = std::get_if<v1::ResumeRequest>(&request_)) {
    resume->set_after(last_);
  } else if (is_private_) {
    if (!started_.has_value()) return;
    std::get<v1::GenerateRequest>(request_).mutable_sampling()->set_seed(started_->seed());
  } else {
    std::get<v1::GenerateRequest>(request_).set_after(last_);
  }
}

absl::StatusOr<bool> AnswerProgress::Accept(v1::GenerateResponse& event) {
  if (event.sequence() == 0) return true;
  if (is_private_ && resume_ && event.sequence() <= last_) return AcceptAgain(event);
  uint64_t numbers = 1;
  if (event.has_started()) started_ = event.started();
  if (event.has_tokens()) {
    numbers = static_cast<uint64_t>(event.tokens().tokens_size());
    if (is_private_ && resume_) {
      for (const v1::Token& token : event.tokens().tokens()) token_ids_.push_back(token.id());
    }
  }
  last_ = event.sequence() + numbers - 1;
  return true;
}

absl::StatusOr<bool> AnswerProgress::AcceptAgain(v1::GenerateResponse& event) {
  if (event.has_started() && started_.has_value()) {
    if (event.started().model_fingerprint() == started_->model_fingerprint()) return false;
    return absl::DataLossError(
        absl::StrCat("the answer broke off, and now the server has another model: ",
                     event.started().model_fingerprint(), ", not ", started_->model_fingerprint()));
  }
  v1::Tokens& tokens = *event.mutable_tokens();  // none in any other event
  const uint64_t first = event.sequence();
  const int known =
      static_cast<int>(std::min(static_cast<uint64_t>(tokens.tokens_size()), last_ + 1 - first));
  // Started has number 1, the first token 2.
  for (uint64_t number = first; number < first + std::max<uint64_t>(known, 1); ++number) {
    const auto i = static_cast<int>(number - first);
    const bool same = number >= 2 && number - 2 < token_ids_.size() && i < tokens.tokens_size() &&
                      tokens.tokens(i).id() == token_ids_[number - 2];
    if (same) continue;
    return absl::DataLossError(absl::StrCat(
        "the answer broke off and came out otherwise the second time: event ", number));
  }
  tokens.mutable_tokens()->DeleteSubrange(0, known);
  if (tokens.tokens_size() == 0) return false;
  event.set_sequence(last_ + 1);
  return Accept(event);
}

}  // namespace gma::client
