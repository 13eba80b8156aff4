#include "tests/support/oracle.h"

#include <utility>

#include "base/check.h"

namespace gma::testing {
namespace {

std::vector<int32_t> EndTokens() { return {kFakeEndToken}; }

}  // namespace

Oracle::Oracle(FakeState state, absl::Span<const int32_t> feed, const SamplingParams& sampling,
               const StopParams& stop)
    : state_(state),
      sampler_(sampling, stop.min_tokens, stop.ignore_eos ? std::vector<int32_t>() : EndTokens(),
               kFakeVocab),
      judge_(stop, EndTokens()) {
  sampler_.ObservePrompt(feed);
  state_.Feed(feed);
}

Oracle::Drawn Oracle::Next() {
  if (pending_) state_.Feed(*pending_);
  std::vector<float> logits(kFakeVocab);
  state_.Logits(absl::MakeSpan(logits));
  absl::StatusOr<SampledToken> sampled =
      sampler_.Sample(absl::MakeSpan(logits), static_cast<uint64_t>(state_.position));
  GMA_CHECK(sampled.ok());
  pending_ = sampled->token;
  StopJudge::Verdict verdict = judge_.Judge(sampled->token, FakeTokenText(sampled->token));
  return {sampled->token, std::move(verdict.text), verdict.reason};
}

ExpectedAnswer AnswerOf(FakeState state, absl::Span<const int32_t> feed,
                        const SamplingParams& sampling, const StopParams& stop) {
  Oracle oracle(state, feed, sampling, stop);
  ExpectedAnswer answer;
  while (answer.reason == FinishReason::kNone) {
    Oracle::Drawn drawn = oracle.Next();
    answer.tokens.push_back(drawn.token);
    answer.text += drawn.text;
    answer.reason = drawn.reason;
  }
  answer.state = oracle.state();
  return answer;
}

}  // namespace gma::testing
