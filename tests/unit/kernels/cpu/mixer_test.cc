// The SIMD mixer against the reference kernel, and its promise of equal bits.
#include "model/kernels/cpu/mixer.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/kernels/cpu/mixer_cases.h"

namespace gma {
namespace {

using testing::CaseMixer;
using testing::Distance;
using testing::MixerCase;
using testing::SameBits;
using testing::ScopedTarget;
using testing::Targets;
using testing::TestToken;
using testing::Tokens;

class MixerOptionsTest : public ::testing::TestWithParam<MixerCase> {};

TEST_P(MixerOptionsTest, AgreesWithTheReference) {
  constexpr size_t kTokens = 200;
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const ScopedTarget scoped(target);
    CaseMixer expected(GetParam(), 7), layer(GetParam(), 7);
    const std::vector<TestToken> tokens = Tokens(layer, kTokens);
    const cpu::Mixer kernel(layer.mixer.constants);
    const std::vector<float> out = layer.Run(kernel, tokens, 0, kTokens);
    double worst = 0;
    for (size_t t = 0; t < kTokens; ++t) {
      const auto begin = out.begin() + static_cast<int64_t>(t) * layer.out_width();
      worst = std::max(worst, Distance(std::vector<float>(begin, begin + layer.out_width()),
                                       expected.mixer.Step(tokens[t])));
    }
    EXPECT_LT(worst, 1e-5);
    EXPECT_LT(Distance(layer.mixer.mass, expected.mixer.mass), 1e-6);
    EXPECT_LT(Distance(layer.StateNumbers(), expected.StateNumbers()), 1e-5);
  }
}

TEST_P(MixerOptionsTest, CutsIntoCallsDoNotChangeABit) {
  constexpr size_t kTokens = 60;
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const ScopedTarget scoped(target);
    CaseMixer whole(GetParam(), 3);
    const std::vector<TestToken> tokens = Tokens(whole, kTokens);
    const cpu::Mixer kernel(whole.mixer.constants);
    const std::vector<float> out = whole.Run(kernel, tokens, 0, kTokens);
    std::mt19937 engine(1);
    for (int32_t trial = 0; trial < 3; ++trial) {
      CaseMixer layer(GetParam(), 3);
      std::vector<float> pieces;
      for (size_t begin = 0; begin < kTokens;) {
        const size_t most = trial == 0 ? 1 : 20;
        const size_t end = std::min(kTokens, begin + 1 + engine() % most);
        const std::vector<float> piece = layer.Run(kernel, tokens, begin, end);
        pieces.insert(pieces.end(), piece.begin(), piece.end());
        begin = end;
      }
      EXPECT_TRUE(SameBits(pieces, out));
      EXPECT_TRUE(SameBits(layer.mixer.mass, whole.mixer.mass));
      EXPECT_TRUE(SameBits(layer.StateNumbers(), whole.StateNumbers()));
      EXPECT_TRUE(SameBits(layer.mixer.compensation, whole.mixer.compensation));
    }
  }
}

#if HWY_ARCH_X86
TEST_P(MixerOptionsTest, VectorWidthDoesNotChangeABit) {
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) GTEST_SKIP() << "no AVX-512 on this CPU";
  CaseMixer wide(GetParam(), 5), narrow(GetParam(), 5);
  const std::vector<TestToken> tokens = Tokens(wide, 100);
  const cpu::Mixer kernel(wide.mixer.constants);
  std::vector<float> wide_out, narrow_out;
  {
    const ScopedTarget scoped(HWY_AVX3);
    wide_out = wide.Run(kernel, tokens, 0, tokens.size());
  }
  {
    const ScopedTarget scoped(HWY_AVX2);
    narrow_out = narrow.Run(kernel, tokens, 0, tokens.size());
  }
  EXPECT_TRUE(SameBits(narrow_out, wide_out));
  EXPECT_TRUE(SameBits(narrow.mixer.mass, wide.mixer.mass));
  EXPECT_TRUE(SameBits(narrow.StateNumbers(), wide.StateNumbers()));
  EXPECT_TRUE(SameBits(narrow.mixer.compensation, wide.mixer.compensation));
}
#endif

INSTANTIATE_TEST_SUITE_P(All, MixerOptionsTest, ::testing::ValuesIn(testing::kMixerCases),
                         [](const auto& test) { return test.param.name; });

class MixerTargetTest : public ::testing::TestWithParam<int64_t> {
 protected:
  MixerTargetTest() : scoped_(GetParam()) {}

 private:
  ScopedTarget scoped_;
};

TEST_P(MixerTargetTest, FirstOutputIsTheFirstValue) {
  for (const int32_t window : {0, 3}) {
    for (const bool adapted : {false, true}) {
      CaseMixer layer({.window = window, .adapted = adapted}, 2);
      const std::vector<TestToken> tokens = Tokens(layer, 1);
      const std::vector<float> out = layer.Run(cpu::Mixer(layer.mixer.constants), tokens, 0, 1);
      for (int32_t h = 0; h < 4; ++h) {
        for (int32_t i = 0; i < 8; ++i) {
          EXPECT_FLOAT_EQ(out[h * 8 + i], tokens[0].value[h / 2 * 8 + i]) << "window " << window;
        }
      }
    }
  }
}

// docs/MATH.md 6: query and key keep disjoint supports; the linear read gives 0/0. The second token
// leaves the slots that it does not write as they are.
TEST_P(MixerTargetTest, SlotsWithoutResponsibilityAreReadButNotTouched) {
  CaseMixer layer({.heads = 1, .memory_heads = 1, .components = 4, .routing_dim = 1}, 5);
  // A query at x = 0 has the scores w0; keys at x = 1 and x = -1 have w0 + w1 and w0 - w1.
  layer.mixer.SetScores({-230, 200, 5, 5}, {0, -200, -210, -220});
  std::vector<TestToken> tokens = Tokens(layer, 2);
  tokens[0].route_q = tokens[1].route_q = {0};
  tokens[0].route_k = {1};
  tokens[1].route_k = {-1};
  tokens[0].value.assign(8, 2.5f);
  const cpu::Mixer kernel(layer.mixer.constants);
  EXPECT_THAT(layer.Run(kernel, tokens, 0, 1), ::testing::Each(2.5f));
  const std::vector<float> memory = layer.mixer.memory;
  const std::vector<double> mass = layer.mixer.mass;
  EXPECT_THAT(mass, ::testing::ElementsAre(0, 1, 0, 0));
  const std::vector<float> out = layer.Run(kernel, tokens, 1, 2);
  EXPECT_THAT(layer.mixer.mass, ::testing::ElementsAre(1, 1, 0, 0));
  EXPECT_EQ(std::memcmp(layer.mixer.memory.data() + 8, memory.data() + 8, 24 * sizeof(float)), 0);
  for (int32_t i = 0; i < 8; ++i) EXPECT_FLOAT_EQ(out[i], tokens[1].value[i]);
}

TEST_P(MixerTargetTest, SharpRoutingNeverGivesNaN) {
  for (const bool adapted : {false, true}) {
    for (const int32_t window : {0, 4}) {
      CaseMixer layer({.window = window, .adapted = adapted, .forget_head = true}, 6);
      std::vector<TestToken> tokens = Tokens(layer, 50);
      for (TestToken& token : tokens) {
        for (auto* part : {&token.route_q, &token.route_k, &token.q}) {
          for (float& x : *part) x *= 1e4f;
        }
        token.log_decay.assign(2, -800.0f);  // masses fall out of the range of float64
      }
      for (const float x : layer.Run(cpu::Mixer(layer.mixer.constants), tokens, 0, 50)) {
        EXPECT_TRUE(std::isfinite(x));
      }
      for (const float x : layer.StateNumbers()) EXPECT_TRUE(std::isfinite(x));
    }
  }
}

// A read is as good with masses of 10^12 and of 2^-99 as with masses around 1.
TEST_P(MixerTargetTest, MassesOfAnyMagnitude) {
  for (const double scale : {1e12, 1.0, 0x1p-99, 1e-200}) {
    CaseMixer expected({.forget_head = true}, 8), layer({.forget_head = true}, 8);
    std::vector<TestToken> tokens = Tokens(layer, 2);
    for (CaseMixer* each : {&expected, &layer}) {
      std::mt19937 engine(4);
      for (double& mass : each->mixer.mass) mass = scale * (1 + engine() % 5);
      for (float& mean : each->mixer.memory) mean = static_cast<float>(engine() % 7);
    }
    const std::vector<float> out = layer.Run(cpu::Mixer(layer.mixer.constants), tokens, 0, 1);
    EXPECT_LT(Distance(out, expected.mixer.Step(tokens[0])), 1e-5) << scale;
  }
}

TEST_P(MixerTargetTest, OutputsStayWithinTheRangeOfPastValues) {
  CaseMixer layer({.window = 4, .adapted = true}, 4);
  const std::vector<TestToken> tokens = Tokens(layer, 100);
  const std::vector<float> out =
      layer.Run(cpu::Mixer(layer.mixer.constants), tokens, 0, tokens.size());
  float low = INFINITY, high = -INFINITY;
  for (size_t t = 0; t < tokens.size(); ++t) {
    for (const float x : tokens[t].value) {
      low = std::min(low, x);
      high = std::max(high, x);
    }
    for (int64_t i = 0; i < layer.out_width(); ++i) {
      const float o = out[static_cast<int64_t>(t) * layer.out_width() + i];
      EXPECT_GE(o, low - 1e-6f);
      EXPECT_LE(o, high + 1e-6f);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, MixerTargetTest, ::testing::ValuesIn(Targets()),
                         [](const auto& test) { return std::string(hwy::TargetName(test.param)); });

}  // namespace
}  // namespace gma
