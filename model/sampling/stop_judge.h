// Decides when an answer ends and which of its bytes may be shown already.
#ifndef GMA_MODEL_SAMPLING_STOP_JUDGE_H_
#define GMA_MODEL_SAMPLING_STOP_JUDGE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/sampling/sampling_params.h"

namespace gma {

// One request's judge. A piece of text that may turn out to be the start of a stop string is held
// back until it is decided, so a stop string is never shown, not even in part.
// THREADS: one at a time.
class StopJudge {
 public:
  struct Verdict {
    FinishReason reason;  // kNone: go on
    std::string text;     // bytes that may be shown now
  };

  // `end_tokens` are the model's; they count unless params.ignore_eos.
  StopJudge(StopParams params, const std::vector<int32_t>& end_tokens);

  // Judges the next token, before it is fed. `bytes` is its text (empty for special tokens).
  // A stop token gives no text. When the answer ends for another reason than a stop string, what
  // was held back is released with the verdict.
  Verdict Judge(int32_t token, std::string_view bytes);

  // Bytes still held back, for an answer that ends from outside (cancel, deadline).
  std::string Flush();

 private:
  StopParams params_;
  std::vector<int32_t> end_tokens_;
  std::string held_;  // shorter than the longest stop string
  int64_t judged_ = 0;
};

}  // namespace gma

#endif  // GMA_MODEL_SAMPLING_STOP_JUDGE_H_
