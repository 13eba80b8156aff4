#include "model/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"
#include "model/sampling/philox.h"

namespace gma {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMaxFloat = std::numeric_limits<float>::max();

// Whether no logit is NaN or +inf. -inf is a token that the model itself bans.
bool NoneNanOrPositiveInfinity(absl::Span<const float> logits) {
  bool bad = false;
  for (float logit : logits) bad |= !(logit < kInfinity);
  return !bad;
}

// Back to float without leaving the finite numbers: an extreme penalty must not look like NaN.
float ToFinite(double logit) {
  return static_cast<float>(std::clamp<double>(logit, -kMaxFloat, kMaxFloat));
}

// The last element that belongs to the smallest prefix of `items`, in their order, whose weights
// sum up to `target`; the last of all if they never do. REQUIRES: items is not empty.
// Halves the range each time, so the whole takes linear time; reorders `items`.
template <typename Item, typename Less>
Item LastOfMass(std::vector<Item>& items, double target, Less less) {
  auto begin = items.begin(), end = items.end();
  double before = 0;
  while (end - begin > 1) {
    auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, less);
    double mass = before;
    for (auto item = begin; item != middle; ++item) mass += item->weight;
    if (mass >= target) {
      end = middle;
    } else {
      before = mass;
      begin = middle;
    }
  }
  return *begin;
}

// More probable first, the smaller id among equals.
bool MoreProbable(const TokenLogprob& a, const TokenLogprob& b) {
  return a.logprob != b.logprob ? a.logprob > b.logprob : a.token < b.token;
}

}  // namespace

Sampler::Sampler(SamplingParams params, int64_t min_tokens, std::vector<int32_t> end_tokens,
                 int32_t vocab_size)
    : params_(std::move(params)),
      min_tokens_(min_tokens),
      end_tokens_(std::move(end_tokens)),
      vocab_size_(vocab_size) {
  for (const auto& [token, bias] : params_.logit_bias) GMA_CHECK(InVocabulary(token));
  for (const auto* tokens : {&params_.banned_tokens, &params_.allowed_tokens, &end_tokens_}) {
    for (int32_t token : *tokens) GMA_CHECK(InVocabulary(token));
  }
  const auto size = static_cast<size_t>(vocab_size);
  if (params_.repetition_penalty != 1.0) seen_.resize(size);
  if (!params_.allowed_tokens.empty()) {
    allowed_.resize(size);
    for (int32_t token : params_.allowed_tokens) allowed_[static_cast<size_t>(token)] = true;
  }
}

void Sampler::ObservePrompt(absl::Span<const int32_t> tokens) {
  if (seen_.empty()) return;
  for (int32_t token : tokens) {
    GMA_CHECK(InVocabulary(token));
    seen_[static_cast<size_t>(token)] = true;
  }
}

absl::StatusOr<SampledToken> Sampler::Sample(absl::Span<float> logits, uint64_t position) {
  GMA_CHECK(logits.size() == static_cast<size_t>(vocab_size_));
  if (!NoneNanOrPositiveInfinity(logits)) return absl::InternalError("non-finite logits");
  if (params_.top_logprobs >= 0) model_logits_.assign(logits.begin(), logits.end());
  ApplyBiasAndBans(logits);
  ApplyPenalties(logits);
  SampledToken sampled = {};
  sampled.token = Greedy(logits);
  if (sampled.token < 0) return absl::InternalError("non-finite logits: no token is left to draw");
  if (params_.temperature > 0) {
    sampled.token = Draw(logits, logits[static_cast<size_t>(sampled.token)], position);
  }
  if (params_.top_logprobs >= 0) AddLogprobs(sampled);
  ++generated_;
  if (!seen_.empty()) seen_[static_cast<size_t>(sampled.token)] = true;
  if (params_.presence_penalty != 0 || params_.frequency_penalty != 0) {
    ++answer_counts_[sampled.token];
  }
  return sampled;
}

void Sampler::ApplyBiasAndBans(absl::Span<float> logits) const {
  for (const auto& [token, bias] : params_.logit_bias) logits[static_cast<size_t>(token)] += bias;
  for (int32_t token : params_.banned_tokens) logits[static_cast<size_t>(token)] = -kInfinity;
  if (!allowed_.empty()) {
    for (size_t token = 0; token < logits.size(); ++token) {
      if (!allowed_[token]) logits[token] = -kInfinity;
    }
  }
  if (generated_ < min_tokens_) {
    for (int32_t token : end_tokens_) logits[static_cast<size_t>(token)] = -kInfinity;
  }
}

void Sampler::ApplyPenalties(absl::Span<float> logits) const {
  const double repetition = params_.repetition_penalty;
  for (size_t token = 0; token < seen_.size(); ++token) {
    if (!seen_[token] || logits[token] == -kInfinity) continue;
    const double logit = logits[token];
    logits[token] = ToFinite(logit > 0 ? logit / repetition : logit * repetition);
  }
  for (const auto& [token, count] : answer_counts_) {
    float& logit = logits[static_cast<size_t>(token)];
    if (logit == -kInfinity) continue;
    logit = ToFinite(logit - params_.presence_penalty -
                     params_.frequency_penalty * static_cast<double>(count));
  }
}

int32_t Sampler::Greedy(absl::Span<const float> logits) {
  int32_t best = -1;
  float best_logit = -kInfinity;
  for (size_t token = 0; token < logits.size(); ++token) {
    if (logits[token] > best_logit) {
      best_logit = logits[token];
      best = static_cast<int32_t>(token);
    }
  }
  return best;
}

int32_t Sampler::Draw(absl::Span<const float> logits, float max_logit, uint64_t position) {
  KeepTopK(logits);
  for (Candidate& candidate : candidates_) {
    const double logit = logits[static_cast<size_t>(candidate.token)];
    candidate.weight = std::exp((logit - max_logit) / params_.temperature);
  }
  KeepTypical();
  KeepTopP();
  KeepMinP();
  double left = PhiloxUniform(params_.seed, position) * TotalWeight();
  int32_t last = -1;
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight == 0) continue;
    last = candidate.token;
    left -= candidate.weight;
    if (left < 0) break;
  }
  // Without a break above, rounding used up the mass: the last token is the one that was meant.
  return last;
}

// Makes the list of candidates: every token that is not banned, or the top_k most probable of them.
void Sampler::KeepTopK(absl::Span<const float> logits) {
  candidates_.clear();
  const auto k = static_cast<size_t>(params_.top_k);
  TokenLogprob last = {vocab_size_, -kInfinity};  // everything stands before it
  if (k > 0 && k < logits.size()) {
    const float floor = TopKFloor(logits, k);
    order_.clear();
    for (size_t token = 0; token < logits.size(); ++token) {
      if (logits[token] >= floor) order_.push_back({static_cast<int32_t>(token), logits[token]});
    }
    auto kth = order_.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(order_.begin(), kth, order_.end(), MoreProbable);
    last = *kth;
  }
  for (size_t token = 0; token < logits.size(); ++token) {
    const TokenLogprob entry = {static_cast<int32_t>(token), logits[token]};
    if (entry.logprob < last.logprob || entry.logprob == -kInfinity) continue;
    if (!MoreProbable(last, entry)) candidates_.push_back({0, entry.token});
  }
}

// A logit that at least k tokens reach: the k-th largest among the maxima of blocks of tokens. It
// leaves few tokens to put in order.
float Sampler::TopKFloor(absl::Span<const float> logits, size_t k) {
  constexpr size_t kBlock = 64;
  if (k * kBlock > logits.size()) return -kInfinity;
  block_maxima_.clear();
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    float best = -kInfinity;
    for (float logit : logits.subspan(begin, kBlock)) best = std::max(best, logit);
    block_maxima_.push_back(best);
  }
  auto kth = block_maxima_.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(block_maxima_.begin(), kth, block_maxima_.end(), std::greater<>());
  return *kth;
}

// Locally typical sampling (Meister et al., 2022): the tokens whose surprise is nearest to the
// entropy, until their probability reaches typical_p.
void Sampler::KeepTypical() {
  if (params_.typical_p >= 1.0) return;
  const double total = TotalWeight();
  double entropy = 0;
  for (const Candidate& candidate : candidates_) {
    const double p = candidate.weight / total;
    if (p > 0) entropy -= p * std::log(p);
  }
  ranked_.clear();
  for (const Candidate& candidate : candidates_) {
    const double p = candidate.weight / total;
    if (p > 0) {
      ranked_.push_back({std::abs(-std::log(p) - entropy), candidate.weight, candidate.token});
    }
  }
  auto before = [](const Ranked& a, const Ranked& b) {
    return a.key != b.key ? a.key < b.key : a.token < b.token;
  };
  const Ranked last = LastOfMass(ranked_, params_.typical_p * total, before);
  std::erase_if(ranked_, [&](const Ranked& item) { return before(last, item); });
  std::sort(ranked_.begin(), ranked_.end(),
            [](const Ranked& a, const Ranked& b) { return a.token < b.token; });
  candidates_.clear();
  for (const Ranked& item : ranked_) candidates_.push_back({item.weight, item.token});
}

// Nucleus sampling: the most probable tokens until their probability reaches top_p.
void Sampler::KeepTopP() {
  if (params_.top_p >= 1.0) return;
  const double total = TotalWeight();
  // All tokens lighter than this together weigh less than (1 - top_p) of the total, so the nucleus
  // is complete without them. This leaves few tokens to put in order.
  const double floor = (1.0 - params_.top_p) * total / static_cast<double>(candidates_.size());
  ranked_.clear();
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight >= floor) {
      ranked_.push_back({-candidate.weight, candidate.weight, candidate.token});
    }
  }
  auto before = [](const Ranked& a, const Ranked& b) {
    return a.key != b.key ? a.key < b.key : a.token < b.token;
  };
  const Ranked last = LastOfMass(ranked_, params_.top_p * total, before);
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    return before(last, {-candidate.weight, candidate.weight, candidate.token});
  });
}

// Tokens at least min_p times as probable as the most probable one.
void Sampler::KeepMinP() {
  if (params_.min_p <= 0) return;
  double best = 0;
  for (const Candidate& candidate : candidates_) best = std::max(best, candidate.weight);
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    return candidate.weight < params_.min_p * best;
  });
}

double Sampler::TotalWeight() const {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  return total;
}

void Sampler::AddLogprobs(SampledToken& sampled) {
  const float max_logit = *std::max_element(model_logits_.begin(), model_logits_.end());
  double sum = 0;
  for (float logit : model_logits_) sum += std::exp(static_cast<double>(logit) - max_logit);
  const double log_sum = max_logit + std::log(sum);
  auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };
  sampled.logprob = logprob(model_logits_[static_cast<size_t>(sampled.token)]);

  order_.clear();
  for (size_t token = 0; token < model_logits_.size(); ++token) {
    if (model_logits_[token] == -kInfinity) continue;
    order_.push_back({static_cast<int32_t>(token), model_logits_[token]});
  }
  const size_t count = std::min(static_cast<size_t>(params_.top_logprobs), order_.size());
  auto end = order_.begin() + static_cast<std::ptrdiff_t>(count);
  std::partial_sort(order_.begin(), end, order_.end(), MoreProbable);
  for (auto entry = order_.begin(); entry != end; ++entry) {
    sampled.top_logprobs.push_back({entry->token, logprob(entry->logprob)});
  }
}

}  // namespace gma
