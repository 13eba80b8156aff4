#include "model/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "model/sampling/philox.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

using Logits = std::vector<float>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMaxFloat = std::numeric_limits<float>::max();

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

Sampler MakeSampler(const SamplingParams& params, size_t vocab) {
  return Sampler(params, 0, {}, static_cast<int32_t>(vocab));
}

int32_t SampleOne(Sampler& sampler, Logits logits, uint64_t position = 0) {
  absl::StatusOr<SampledToken> sampled = sampler.Sample(absl::MakeSpan(logits), position);
  EXPECT_THAT(sampled, IsOk());
  return sampled.ok() ? sampled->token : -1;
}

int32_t SampleOnce(const SamplingParams& params, const Logits& logits) {
  Sampler sampler = MakeSampler(params, logits.size());
  return SampleOne(sampler, logits);
}

// Every token that shows up in `draws` draws.
std::set<int32_t> Support(const SamplingParams& params, const Logits& logits, int draws = 2000) {
  Sampler sampler = MakeSampler(params, logits.size());
  std::set<int32_t> tokens;
  for (int i = 0; i < draws; ++i) {
    tokens.insert(SampleOne(sampler, logits, static_cast<uint64_t>(i)));
  }
  return tokens;
}

Logits FromProbabilities(const std::vector<double>& probabilities) {
  Logits logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(Sampler, TemperatureZeroTakesTheLargestAndTheSmallestIdAmongEquals) {
  EXPECT_EQ(SampleOnce(Greedy(), {1, 3, 2}), 1);
  EXPECT_EQ(SampleOnce(Greedy(), {1, 3, 3, 3}), 1);
  EXPECT_EQ(SampleOnce(Greedy(), {-kMaxFloat, -kInfinity}), 0);
  EXPECT_EQ(SampleOnce(Greedy(), {-0.0f, 0.0f}), 0);
}

TEST(Sampler, NanAndPositiveInfinityEndTheStreamWithATypedError) {
  for (float bad : {std::nanf(""), -std::nanf(""), kInfinity}) {
    for (size_t place : {0u, 1u, 2u}) {
      Logits logits = {0, 0, 0};
      logits[place] = bad;
      Sampler sampler = MakeSampler({}, 3);
      EXPECT_THAT(sampler.Sample(absl::MakeSpan(logits), 0),
                  StatusIs(absl::StatusCode::kInternal, HasSubstr("non-finite logits")));
      EXPECT_EQ(sampler.generated(), 0);
    }
  }
}

TEST(Sampler, NegativeInfinityIsATokenThatIsNeverDrawn) {
  EXPECT_THAT(Support({}, {-kInfinity, 0, -kInfinity, 0}), UnorderedElementsAre(1, 3));
}

TEST(Sampler, NoTokenLeftIsAnError) {
  Logits logits = {-kInfinity, -kInfinity};
  for (double temperature : {0.0, 1.0}) {
    SamplingParams params;
    params.temperature = temperature;
    Sampler sampler = MakeSampler(params, 2);
    EXPECT_THAT(sampler.Sample(absl::MakeSpan(logits), 0),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("no token is left")));
  }
  SamplingParams contradiction;
  contradiction.allowed_tokens = {1};
  contradiction.banned_tokens = {1};
  Sampler sampler = MakeSampler(contradiction, 2);
  Logits finite = {0, 0};
  EXPECT_THAT(sampler.Sample(absl::MakeSpan(finite), 0),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("no token is left")));
}

TEST(Sampler, TheDrawIsAFunctionOfSeedAndPosition) {
  const Logits logits(1000, 0.0f);
  SamplingParams params;
  params.seed = 5;
  Sampler first = MakeSampler(params, 1000), second = MakeSampler(params, 1000);
  // The second sampler draws in another order, and its neighbours do not matter.
  const int32_t at_7 = SampleOne(first, logits, 7);
  const int32_t at_9 = SampleOne(first, logits, 9);
  EXPECT_EQ(SampleOne(second, logits, 9), at_9);
  EXPECT_EQ(SampleOne(second, logits, 7), at_7);
  EXPECT_EQ(at_7, static_cast<int32_t>(PhiloxUniform(5, 7) * 1000));
  params.seed = 6;
  Sampler other = MakeSampler(params, 1000);
  EXPECT_EQ(SampleOne(other, logits, 7), static_cast<int32_t>(PhiloxUniform(6, 7) * 1000));
}

TEST(Sampler, BiasMovesALogit) {
  SamplingParams params = Greedy();
  params.logit_bias = {{2, 5.0f}, {0, -100.0f}};
  EXPECT_EQ(SampleOnce(params, {4, 3, 0}), 2);
}

TEST(Sampler, BannedTokensAndAllBesidesTheAllowedAreNeverDrawn) {
  SamplingParams banned;
  banned.banned_tokens = {0, 2};
  EXPECT_THAT(Support(banned, {9, 0, 9, 0}), UnorderedElementsAre(1, 3));
  SamplingParams allowed;
  allowed.allowed_tokens = {0, 3};
  EXPECT_THAT(Support(allowed, {0, 9, 9, 0}), UnorderedElementsAre(0, 3));
}

TEST(Sampler, EndTokensAreBannedUntilTheMinimumIsDrawn) {
  Sampler sampler(Greedy(), 2, {0}, 3);
  const Logits logits = {9, 1, 0};
  EXPECT_EQ(SampleOne(sampler, logits), 1);
  EXPECT_EQ(SampleOne(sampler, logits), 1);
  EXPECT_EQ(sampler.generated(), 2);
  EXPECT_EQ(SampleOne(sampler, logits), 0);
}

TEST(Sampler, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  SamplingParams params = Greedy();
  params.repetition_penalty = 2;
  Sampler positive = MakeSampler(params, 2);
  positive.ObservePrompt({1});
  EXPECT_EQ(SampleOne(positive, {3, 5}), 0) << "5 / 2 < 3";
  Sampler negative = MakeSampler(params, 2);
  negative.ObservePrompt({1});
  EXPECT_EQ(SampleOne(negative, {-3, -2}), 0) << "-2 * 2 < -3";
  Sampler answer = MakeSampler(params, 2);
  EXPECT_EQ(SampleOne(answer, {3, 5}), 1);
  EXPECT_EQ(SampleOne(answer, {3, 5}), 0) << "tokens of the answer count too";
}

TEST(Sampler, PresencePenaltyCountsOnceOverTheAnswerAlone) {
  SamplingParams params = Greedy();
  params.presence_penalty = 1.5;
  Sampler sampler = MakeSampler(params, 2);
  sampler.ObservePrompt({1, 1, 1});
  EXPECT_EQ(SampleOne(sampler, {3, 4}), 1) << "the prompt does not count";
  EXPECT_EQ(SampleOne(sampler, {3, 4}), 0);
  EXPECT_EQ(SampleOne(sampler, {3, 4}), 1) << "both were seen: the penalty is the same";
}

TEST(Sampler, FrequencyPenaltyGrowsWithTheCount) {
  SamplingParams params = Greedy();
  params.frequency_penalty = 1;
  Sampler sampler = MakeSampler(params, 2);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 5; ++i) tokens.push_back(SampleOne(sampler, {0, 2.5}));
  EXPECT_THAT(tokens, ElementsAre(1, 1, 1, 0, 1));
}

TEST(Sampler, NegativePenaltiesAttract) {
  SamplingParams params = Greedy();
  params.presence_penalty = -100;
  Sampler sampler = MakeSampler(params, 2);
  EXPECT_EQ(SampleOne(sampler, {0, 1}), 1);
  EXPECT_EQ(SampleOne(sampler, {50, 1}), 1);
}

TEST(Sampler, TopKKeepsTheKMostProbableAndTheSmallestIdsAmongEquals) {
  SamplingParams params;
  params.top_k = 2;
  EXPECT_THAT(Support(params, {1, 3, 2, 0}), UnorderedElementsAre(1, 2));
  EXPECT_THAT(Support(params, {0, 0, 0, 0}), UnorderedElementsAre(0, 1));
  params.top_k = 1;
  EXPECT_THAT(Support(params, {1, 3, 3, 0}), UnorderedElementsAre(1));
  for (int32_t off : {0, 4, 5, INT32_MAX}) {
    params.top_k = off;
    EXPECT_THAT(Support(params, {0, 0, 0, 0}), UnorderedElementsAre(0, 1, 2, 3));
  }
  params.top_k = 3;
  EXPECT_THAT(Support(params, {-kInfinity, 0, -kInfinity, -kInfinity}), UnorderedElementsAre(1));
}

TEST(Sampler, TopKOverALargeVocabularyEqualsSorting) {
  Logits logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) {
    // A few hundred different values: many ties.
    logits[i] = static_cast<float>(static_cast<int>(PhiloxUniform(4, i) * 300)) * 1e-6f;
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  for (int32_t k : {1, 2, 7, 40, 78, 79, 200}) {
    SamplingParams params;
    params.top_k = k;
    EXPECT_EQ(Support(params, logits, 60 * k), std::set<int32_t>(order.begin(), order.begin() + k))
        << "k = " << k;
  }
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesTheMass) {
  const Logits logits = FromProbabilities({0.1, 0.4, 0.2, 0.3});
  SamplingParams params;
  params.top_p = 0.39;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(1));
  params.top_p = 0.5;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(1, 3));
  params.top_p = 0.8;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(1, 2, 3));
  params.top_p = 0.95;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(0, 1, 2, 3));
  params.top_p = 1e-300;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(1));
}

TEST(Sampler, TopPBreaksTiesByTheSmallerId) {
  SamplingParams params;
  params.top_p = 0.5;
  EXPECT_THAT(Support(params, Logits(4, 0.0f)), UnorderedElementsAre(0, 1));
}

TEST(Sampler, TopPIsCountedOverWhatTopKLeft) {
  SamplingParams params;
  params.top_k = 2;
  params.top_p = 0.55;  // 0.4 of the 0.7 that is left is 0.57
  EXPECT_THAT(Support(params, FromProbabilities({0.1, 0.4, 0.2, 0.3})), UnorderedElementsAre(1));
}

TEST(Sampler, MinPKeepsWhatIsNearTheMostProbable) {
  const Logits logits = FromProbabilities({0.1, 0.4, 0.2, 0.3});
  SamplingParams params;
  params.min_p = 0.6;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(1, 3));
  params.min_p = 0.26;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(1, 2, 3));
  params.min_p = 1;
  EXPECT_THAT(Support(params, {5, 7, 7}), UnorderedElementsAre(1, 2));
}

TEST(Sampler, TypicalPKeepsTokensOfTypicalSurprise) {
  // Entropy 1.37 nats; surprises 0.69, 2.12, 1.97, 1.83, 2.53: nearest are tokens 3, 2, 0, 1, 4.
  const Logits logits = FromProbabilities({0.5, 0.12, 0.14, 0.16, 0.08});
  SamplingParams params;
  params.typical_p = 0.1;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(3));
  params.typical_p = 0.25;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(2, 3));
  params.typical_p = 0.7;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(0, 2, 3));
  params.typical_p = 0.99;
  EXPECT_THAT(Support(params, logits), UnorderedElementsAre(0, 1, 2, 3, 4));
}

TEST(Sampler, LogprobsAreOfTheModelAndNotOfTheFilters) {
  SamplingParams params = Greedy();
  params.top_logprobs = 2;
  params.banned_tokens = {1};
  params.logit_bias = {{0, 50.0f}};
  Logits logits = FromProbabilities({0.1, 0.4, 0.2, 0.3});
  Sampler sampler = MakeSampler(params, 4);
  GMA_ASSERT_OK_AND_ASSIGN(SampledToken sampled, sampler.Sample(absl::MakeSpan(logits), 0));
  EXPECT_EQ(sampled.token, 0);
  EXPECT_NEAR(sampled.logprob, std::log(0.1), 1e-6);
  ASSERT_EQ(sampled.top_logprobs.size(), 2u);
  EXPECT_EQ(sampled.top_logprobs[0].token, 1);
  EXPECT_NEAR(sampled.top_logprobs[0].logprob, std::log(0.4), 1e-6);
  EXPECT_EQ(sampled.top_logprobs[1].token, 3);
}

TEST(Sampler, LogprobsAreGivenOnlyWhenAskedFor) {
  Logits logits = {0, 0};
  Sampler none = MakeSampler(Greedy(), 2);
  GMA_ASSERT_OK_AND_ASSIGN(SampledToken sampled, none.Sample(absl::MakeSpan(logits), 0));
  EXPECT_EQ(sampled.logprob, 0);
  EXPECT_THAT(sampled.top_logprobs, IsEmpty());
  SamplingParams params = Greedy();
  params.top_logprobs = 0;
  Sampler own = MakeSampler(params, 2);
  GMA_ASSERT_OK_AND_ASSIGN(sampled, own.Sample(absl::MakeSpan(logits), 0));
  EXPECT_NEAR(sampled.logprob, std::log(0.5), 1e-6);
  EXPECT_THAT(sampled.top_logprobs, IsEmpty());
  params.top_logprobs = 20;
  Sampler all = MakeSampler(params, 3);
  Logits with_banned = {-kInfinity, 1, 1};
  GMA_ASSERT_OK_AND_ASSIGN(sampled, all.Sample(absl::MakeSpan(with_banned), 0));
  EXPECT_EQ(sampled.top_logprobs.size(), 2u) << "impossible tokens are not listed";
}

TEST(Sampler, ExtremeParametersInRangeNeverGiveNan) {
  const double denormal = std::numeric_limits<double>::denorm_min();
  std::vector<SamplingParams> extremes(9);
  extremes[0].temperature = denormal;
  extremes[1].temperature = 100;
  extremes[2].repetition_penalty = denormal;
  extremes[3].repetition_penalty = 100;
  extremes[4].top_p = denormal;
  extremes[5].min_p = denormal;
  extremes[6].typical_p = denormal;
  extremes[7].presence_penalty = -100;
  extremes[7].frequency_penalty = -100;
  extremes[8].temperature = -0.0;
  for (const SamplingParams& params : extremes) {
    Sampler sampler = MakeSampler(params, 5);
    sampler.ObservePrompt({0, 1, 2, 3, 4});
    for (uint64_t position = 0; position < 20; ++position) {
      const int32_t token =
          SampleOne(sampler, {kMaxFloat, -kMaxFloat, 0, 1e-45f, -kInfinity}, position);
      EXPECT_TRUE(token >= 0 && token < 4);
    }
  }
}

TEST(SamplerDeathTest, TokensOutsideTheVocabularyAreOurMistake) {
  SamplingParams params;
  params.banned_tokens = {3};
  EXPECT_DEATH((void)MakeSampler(params, 3), "check failed");
  EXPECT_DEATH((void)Sampler({}, 1, {-1}, 3), "check failed");
}

// Processor time of this thread: other processes of the machine do not count.
double CpuSeconds() {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

TEST(Sampler, PrintsItsTimeOverALargeVocabulary) {
  constexpr size_t kVocab = 49'152;
  Logits model(kVocab);
  // Like a language model: few probable tokens and a long tail (Zipf's law), in any order.
  for (size_t i = 0; i < kVocab; ++i) {
    const double rank = static_cast<double>((i * 20'011) % kVocab) + 1;
    model[i] = static_cast<float>(-1.5 * std::log(rank));
  }
  struct Setting {
    const char* name;
    SamplingParams params;
  };
  std::vector<Setting> settings = {
      {"greedy", Greedy()}, {"plain", {}},         {"top_k 40", {}},  {"top_p 0.95", {}},
      {"min_p 0.05", {}},   {"typical_p 0.9", {}}, {"penalties", {}}, {"top_logprobs 5", {}}};
  settings[2].params.top_k = 40;
  settings[3].params.top_p = 0.95;
  settings[4].params.min_p = 0.05;
  settings[5].params.typical_p = 0.9;
  settings[6].params.repetition_penalty = 1.1;
  settings[6].params.frequency_penalty = 0.2;
  settings[7].params.top_logprobs = 5;
  for (const Setting& setting : settings) {
    Sampler sampler = MakeSampler(setting.params, kVocab);
    constexpr int kDraws = 50;
    double seconds = 0;
    for (int i = 0; i < kDraws; ++i) {
      Logits logits = model;
      const double start = CpuSeconds();
      ASSERT_THAT(sampler.Sample(absl::MakeSpan(logits), static_cast<uint64_t>(i)), IsOk());
      seconds += CpuSeconds() - start;
    }
    std::printf("%-16s %.3f ms a token\n", setting.name, 1000 * seconds / kDraws);
  }
}

}  // namespace
}  // namespace gma
