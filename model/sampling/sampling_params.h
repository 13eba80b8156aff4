// What a request asks of the sampler. Ranges are checked where requests are read (server/options,
// "limits"); here they are REQUIRED.
#ifndef GMA_MODEL_SAMPLING_SAMPLING_PARAMS_H_
#define GMA_MODEL_SAMPLING_SAMPLING_PARAMS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gma {

// Defaults sample from the plain distribution. Applied in this order: logit bias, banned and
// allowed tokens, minimum length, penalties, temperature, top-k, typical-p, top-p, min-p.
struct SamplingParams {
  double temperature = 1.0;         // [0, 100]; 0: greedy, ties go to the smallest id
  int32_t top_k = 0;                // [0, 2^31); 0: off; larger than the vocabulary: off
  double top_p = 1.0;               // (0, 1]; 1: off
  double min_p = 0.0;               // [0, 1]; 0: off
  double typical_p = 1.0;           // (0, 1]; 1: off
  double repetition_penalty = 1.0;  // (0, 100]; over prompt and answer; divides positive logits
  double presence_penalty = 0.0;    // [-100, 100]; over the answer
  double frequency_penalty = 0.0;   // [-100, 100]; over the answer, times the count
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token, bias in [-100, 100])
  std::vector<int32_t> banned_tokens;
  std::vector<int32_t> allowed_tokens;  // empty: all
  uint64_t seed = 0;
  int32_t top_logprobs = -1;  // [-1, 20]; -1: none; 0: the sampled token's own only
};

// When to stop. Judged before a token is fed; see StopJudge.
struct StopParams {
  int64_t max_tokens = 0;  // >= 1
  int64_t min_tokens = 0;  // [0, max_tokens]: end tokens are banned and stops ignored before it
  std::vector<int32_t> stop_tokens;       // besides the model's end tokens
  std::vector<std::string> stop_strings;  // bytes, each not empty; not part of the text
  bool ignore_eos = false;                // the model's end tokens are ordinary tokens
};

enum class FinishReason { kNone, kStopToken, kStopString, kEndOfText, kLength, kCancelled };

}  // namespace gma

#endif  // GMA_MODEL_SAMPLING_SAMPLING_PARAMS_H_
