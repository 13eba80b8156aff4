// A session as the undisturbed run would have it, in terms of tokens alone.
#ifndef GMA_TESTS_SIM_TURN_MODEL_H_
#define GMA_TESTS_SIM_TURN_MODEL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "model/sampling/sampler.h"
#include "model/sampling/sampling_params.h"
#include "model/sampling/stop_judge.h"
#include "tests/support/fake_decoder.h"

namespace gma::testing {

// Everything that a session was given and has said.
struct SessionModel {
  std::vector<int32_t> tokens;  // the last one is pending
  int64_t last = 0;             // number of its last event

  void Add(absl::Span<const int32_t> more) {
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
};

// An answer in a session, token by token.
class TurnModel {
 public:
  TurnModel(const SessionModel& before, absl::Span<const int32_t> input,
            const SamplingParams& sampling, const StopParams& stop);

  // The next token; reason() then tells whether it is the last. REQUIRES: not ended.
  int32_t Next();
  FinishReason reason() const { return reason_; }
  // Input enters behind the token drawn last.
  void Enter(absl::Span<const int32_t> input);
  // Whether all input has been read: a token was drawn after it.
  bool has_read_all() const { return unfed_.size() == 1 && drawn_last_; }
  // Input and tokens so far.
  const std::vector<int32_t>& tokens() const { return tokens_; }

 private:
  FakeState state_;
  std::vector<int32_t> unfed_, tokens_;
  Sampler sampler_;
  StopJudge judge_;
  bool drawn_last_ = false;
  FinishReason reason_ = FinishReason::kNone;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SIM_TURN_MODEL_H_
