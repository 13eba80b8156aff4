// From logits to one token, deterministic in (seed, session position).
#ifndef GMA_MODEL_SAMPLING_SAMPLER_H_
#define GMA_MODEL_SAMPLING_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/sampling/sampling_params.h"

namespace gma {

struct TokenLogprob {
  int32_t token;
  float logprob;  // natural log, of the softmax of the logits as the model gave them
};

struct SampledToken {
  int32_t token;
  float logprob = 0;                       // as in TokenLogprob, if asked for
  std::vector<TokenLogprob> top_logprobs;  // most probable first, if asked for
};

// One request's sampler: its parameters and the counts that penalties need.
// THREADS: one at a time.
class Sampler {
 public:
  // `end_tokens` are banned until min_tokens answers were drawn.
  // REQUIRES: `params` in range; every token id in [0, vocab_size).
  Sampler(SamplingParams params, int64_t min_tokens, std::vector<int32_t> end_tokens,
          int32_t vocab_size);

  // Counts tokens of the prompt for the repetition penalty.
  void ObservePrompt(absl::Span<const int32_t> tokens);

  // Draws the token that follows `position` tokens of the session; `logits` [vocab] is scratch.
  // The random number is Philox4x32-10 on (seed, position): never on the batch or the wall clock.
  // ERRORS: kInternal "non-finite logits" when a logit is NaN or +inf, or no token is left;
  //         the caller ends this stream and no other.
  absl::StatusOr<SampledToken> Sample(absl::Span<float> logits, uint64_t position);

  // Tokens drawn so far.
  int64_t generated() const { return generated_; }

 private:
  // A token that can still be drawn; weights are probabilities up to a common factor.
  struct Candidate {
    double weight;
    int32_t token;
  };
  // A candidate's place in the order in which a filter takes tokens: by key, then by token.
  struct Ranked {
    double key;
    double weight;
    int32_t token;
  };

  bool InVocabulary(int32_t token) const { return token >= 0 && token < vocab_size_; }
  void ApplyBiasAndBans(absl::Span<float> logits) const;
  void ApplyPenalties(absl::Span<float> logits) const;
  // Token of the largest logit, the smallest id among equals; -1 when all are -inf.
  static int32_t Greedy(absl::Span<const float> logits);
  int32_t Draw(absl::Span<const float> logits, float max_logit, uint64_t position);
  void KeepTopK(absl::Span<const float> logits);
  float TopKFloor(absl::Span<const float> logits, size_t k);
  void KeepTypical();
  void KeepTopP();
  void KeepMinP();
  double TotalWeight() const;
  // Fills in logprob and top_logprobs from the logits of the model.
  void AddLogprobs(SampledToken& sampled);

  SamplingParams params_;
  int64_t min_tokens_;
  std::vector<int32_t> end_tokens_;
  int32_t vocab_size_;
  int64_t generated_ = 0;
  absl::flat_hash_map<int32_t, int64_t> answer_counts_;
  std::vector<bool> seen_;     // [vocab], in prompt or answer; empty without repetition penalty
  std::vector<bool> allowed_;  // [vocab], empty: all
  // Scratch, kept to allocate once.
  std::vector<Candidate> candidates_;  // in the order of their tokens
  std::vector<Ranked> ranked_;
  std::vector<TokenLogprob> order_;
  std::vector<float> model_logits_, block_maxima_;
};

}  // namespace gma

#endif  // GMA_MODEL_SAMPLING_SAMPLER_H_
