// What the engine must answer when FakeDecoder is its model: computed from the prompt alone, one
// token after the other, without batches, rows or time.
#ifndef GMA_TESTS_SUPPORT_ORACLE_H_
#define GMA_TESTS_SUPPORT_ORACLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/sampling/sampler.h"
#include "model/sampling/sampling_params.h"
#include "model/sampling/stop_judge.h"
#include "tests/support/fake_decoder.h"

namespace gma::testing {

// One answer, drawn token by token. The text ends with the token that ends the answer, as in
// TokenEvent.
class Oracle {
 public:
  // `state`: before `feed`, which is everything the request feeds.
  Oracle(FakeState state, absl::Span<const int32_t> feed, const SamplingParams& sampling,
         const StopParams& stop);

  struct Drawn {
    int32_t token;
    std::string text;
    FinishReason reason;  // kNone: the answer goes on
  };
  // The next token. REQUIRES: the answer has not ended.
  Drawn Next();

  // Everything before the token drawn last.
  const FakeState& state() const { return state_; }

 private:
  FakeState state_;
  Sampler sampler_;
  StopJudge judge_;
  std::optional<int32_t> pending_;
};

struct ExpectedAnswer {
  std::vector<int32_t> tokens;
  std::string text;
  FinishReason reason = FinishReason::kNone;
  FakeState state;  // after the answer: everything before its last token
};

// A whole answer.
ExpectedAnswer AnswerOf(FakeState state, absl::Span<const int32_t> feed,
                        const SamplingParams& sampling, const StopParams& stop);

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_ORACLE_H_
