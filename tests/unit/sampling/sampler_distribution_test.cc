// Many draws from fixed seeds, a million for the plain distribution, against the distribution that
// the settings define.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "model/sampling/sampler.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

const std::vector<float> kLogits = {0.3f, -1.2f, 2.0f, 1.1f, -0.4f, 0.0f, 1.9f, -3.0f};

std::vector<double> Frequencies(const SamplingParams& params, const std::vector<float>& model,
                                int draws) {
  Sampler sampler(params, 0, {}, static_cast<int32_t>(model.size()));
  std::vector<double> frequencies(model.size());
  std::vector<float> logits;
  for (int i = 0; i < draws; ++i) {
    logits = model;
    absl::StatusOr<SampledToken> sampled =
        sampler.Sample(absl::MakeSpan(logits), static_cast<uint64_t>(i));
    EXPECT_TRUE(sampled.ok());
    frequencies[static_cast<size_t>(sampled->token)] += 1.0 / draws;
  }
  return frequencies;
}

// softmax(logits / temperature) of the tokens in `kept`, zero elsewhere.
std::vector<double> Expected(const std::vector<float>& logits, double temperature,
                             const std::vector<size_t>& kept) {
  std::vector<double> p(logits.size());
  for (size_t token : kept) p[token] = std::exp(logits[token] / temperature);
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= total;
  return p;
}

// Every frequency within five standard deviations, and nothing outside of the support.
void ExpectNear(const SamplingParams& params, const std::vector<double>& expected,
                int draws = 200'000) {
  const std::vector<double> frequencies = Frequencies(params, kLogits, draws);
  for (size_t token = 0; token < expected.size(); ++token) {
    const double p = expected[token];
    EXPECT_NEAR(frequencies[token], p, 5 * std::sqrt(p * (1 - p) / draws)) << "token " << token;
  }
}

TEST(SamplerDistribution, PlainDrawsFollowTheSoftmax) {
  SamplingParams params;
  params.seed = 11;
  ExpectNear(params, Expected(kLogits, 1.0, {0, 1, 2, 3, 4, 5, 6, 7}), 1'000'000);
}

TEST(SamplerDistribution, TemperatureSharpensAndFlattens) {
  for (double temperature : {0.5, 2.0}) {
    SamplingParams params;
    params.seed = 12;
    params.temperature = temperature;
    ExpectNear(params, Expected(kLogits, temperature, {0, 1, 2, 3, 4, 5, 6, 7}));
  }
}

TEST(SamplerDistribution, FiltersKeepTheRatiosOfWhatTheyKeep) {
  SamplingParams top_k;
  top_k.seed = 13;
  top_k.top_k = 3;
  ExpectNear(top_k, Expected(kLogits, 1.0, {2, 3, 6}));
  SamplingParams top_p;
  top_p.seed = 14;
  top_p.top_p = 0.7;  // probabilities 0.35, 0.32, 0.14: two give 0.67
  ExpectNear(top_p, Expected(kLogits, 1.0, {2, 6, 3}));
  SamplingParams min_p;
  min_p.seed = 15;
  min_p.temperature = 1.5;
  min_p.min_p = 0.3;  // logits within 1.5 * log(1 / 0.3) = 1.81 of the largest
  ExpectNear(min_p, Expected(kLogits, 1.5, {0, 2, 3, 6}));
}

// The same settings by the textbook: sort everything, cut, renormalise.
TEST(SamplerDistribution, TopPOverALargeVocabularyEqualsTheTextbook) {
  std::vector<float> logits(2000);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = 6 * std::sin(static_cast<float>(i) * 0.7f) + static_cast<float>(i % 7) * 0.1f;
  }
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  const std::vector<double> p = Expected(logits, 1.0, order);
  for (double top_p : {0.1, 0.5, 0.9, 0.99}) {
    std::vector<size_t> kept;
    double mass = 0;
    for (size_t token : order) {
      if (mass >= top_p) break;
      kept.push_back(token);
      mass += p[token];
    }
    SamplingParams params;
    params.seed = 16;
    params.top_p = top_p;
    Sampler sampler(params, 0, {}, static_cast<int32_t>(logits.size()));
    std::vector<int> seen(logits.size());
    constexpr int kSmall = 20'000;
    for (int i = 0; i < kSmall; ++i) {
      std::vector<float> scratch = logits;
      GMA_ASSERT_OK_AND_ASSIGN(SampledToken sampled,
                               sampler.Sample(absl::MakeSpan(scratch), static_cast<uint64_t>(i)));
      ++seen[static_cast<size_t>(sampled.token)];
    }
    const std::vector<double> expected = Expected(logits, 1.0, kept);
    double chi_squared = 0;
    for (size_t token = 0; token < seen.size(); ++token) {
      if (expected[token] == 0) {
        ASSERT_EQ(seen[token], 0) << "token " << token << ", top_p " << top_p;
        continue;
      }
      const double mean = expected[token] * kSmall;
      chi_squared += (seen[token] - mean) * (seen[token] - mean) / mean;
    }
    const double freedom = static_cast<double>(kept.size()) - 1;
    EXPECT_NEAR(chi_squared, freedom, 5 * std::sqrt(2 * freedom) + 10) << "top_p " << top_p;
  }
}

}  // namespace
}  // namespace gma
