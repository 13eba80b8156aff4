#include "tests/sim/turn_model.h"

#include <array>

#include "tests/sim/sim_check.h"

namespace gma::testing {
namespace {

std::vector<int32_t> EndTokens(const StopParams& stop) {
  return stop.ignore_eos ? std::vector<int32_t>() : std::vector<int32_t>{kFakeEndToken};
}

}  // namespace

TurnModel::TurnModel(const SessionModel& before, absl::Span<const int32_t> input,
                     const SamplingParams& sampling, const StopParams& stop)
    : tokens_(input.begin(), input.end()),
      sampler_(sampling, stop.min_tokens, EndTokens(stop), kFakeVocab),
      judge_(stop, {kFakeEndToken}) {
  if (!before.tokens.empty()) {
    state_.Feed(absl::MakeConstSpan(before.tokens).first(before.tokens.size() - 1));
    unfed_.push_back(before.tokens.back());
  }
  unfed_.insert(unfed_.end(), input.begin(), input.end());
  sampler_.ObservePrompt(unfed_);
}

int32_t TurnModel::Next() {
  SIM_EXPECT(reason_ == FinishReason::kNone, "an answer goes on after its end");
  state_.Feed(unfed_);
  std::array<float, kFakeVocab> logits;
  state_.Logits(absl::MakeSpan(logits));
  const auto sampled =
      sampler_.Sample(absl::MakeSpan(logits), static_cast<uint64_t>(state_.position));
  SIM_EXPECT(sampled.ok(), sampled.status().ToString());
  unfed_.assign(1, sampled->token);
  drawn_last_ = true;
  tokens_.push_back(sampled->token);
  reason_ = judge_.Judge(sampled->token, FakeTokenText(sampled->token)).reason;
  return sampled->token;
}

void TurnModel::Enter(absl::Span<const int32_t> input) {
  judge_.Flush();
  drawn_last_ = false;
  unfed_.insert(unfed_.end(), input.begin(), input.end());
  tokens_.insert(tokens_.end(), input.begin(), input.end());
  sampler_.ObservePrompt(input);
}

}  // namespace gma::testing
