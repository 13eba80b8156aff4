// Laws of the mixer step (docs/MATH.md 6, 10.2, 11.1, 13).
#include "model/kernels/mixer_step.h"

#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/kernels/reference/mixer_head.h"
#include "model/kernels/reference/mixer_parts.h"
#include "tests/unit/kernels/test_mixer.h"

namespace gma {
namespace {

using ::gma::reference::RopeAngles;
using ::gma::testing::TestMixer;
using ::gma::testing::TestToken;

// Softmax attention of query head h over all `keys` and `values` ([G, v] each), in double.
std::vector<double> FullAttention(const TestMixer& mixer, int32_t h, const std::vector<double>& q,
                                  const std::vector<std::vector<double>>& keys,
                                  const std::vector<TestToken>& tokens) {
  const int32_t v = mixer.constants.head_dim;
  const int32_t g = h * mixer.constants.memory_heads / mixer.constants.heads;
  std::vector<double> out(v);
  double sum = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    double logit = 0;
    for (int32_t i = 0; i < v; ++i) logit += q[i] * keys[t][g * v + i];
    const double weight = std::exp(logit / std::sqrt(static_cast<double>(v)));
    sum += weight;
    for (int32_t i = 0; i < v; ++i) out[i] += weight * tokens[t].value[g * v + i];
  }
  for (double& x : out) x /= sum;
  return out;
}

// Vectors of width v below each other, all rotated to `position`; `sign` -1 rotates back.
std::vector<double> Rotated(const std::vector<float>& x, int64_t position, double theta, int32_t v,
                            double sign = 1) {
  std::vector<double> result(x.begin(), x.end());
  RopeAngles angles(position, theta, v);
  for (double& s : angles.sin) s *= sign;
  for (size_t begin = 0; begin < x.size(); begin += v) {
    reference::Rotate(angles, result.data() + begin);
  }
  return result;
}

TEST(MixerStep, PlainMassSumsToTheTokensSeen) {
  TestMixer mixer(1);
  mixer.Build();
  for (int32_t t = 0; t < 300; ++t) mixer.Step(mixer.Token());
  const int32_t K = mixer.constants.components;
  for (int32_t g = 0; g < mixer.constants.memory_heads; ++g) {
    const auto begin = mixer.mass.begin() + g * K;
    EXPECT_NEAR(std::accumulate(begin, begin + K, 0.0), 300, 1e-10);
  }
}

TEST(MixerStep, FirstOutputIsTheFirstValue) {
  for (const int32_t window : {0, 3}) {
    TestMixer mixer(2);
    mixer.constants.window = window;
    mixer.Build();
    const TestToken token = mixer.Token();
    const std::vector<float> out = mixer.Step(token);
    for (int32_t h = 0; h < 4; ++h) {
      for (int32_t i = 0; i < 8; ++i) {
        EXPECT_FLOAT_EQ(out[h * 8 + i], token.value[h / 2 * 8 + i]) << "window " << window;
      }
    }
  }
}

TEST(MixerStep, ConstantValuesAreReproduced) {
  for (const bool adapted : {false, true}) {
    TestMixer mixer(3);
    mixer.constants.window = 4;
    mixer.constants.adapted = adapted;
    mixer.constants.forget_head = true;
    mixer.Build();
    for (int32_t t = 0; t < 50; ++t) {
      TestToken token = mixer.Token();
      token.value.assign(token.value.size(), 0.75f);
      for (const float o : mixer.Step(token)) EXPECT_FLOAT_EQ(o, 0.75f);
    }
  }
}

TEST(MixerStep, OutputsStayWithinTheRangeOfPastValues) {
  TestMixer mixer(4);
  mixer.constants.window = 4;
  mixer.constants.adapted = true;
  mixer.Build();
  float low = INFINITY, high = -INFINITY;
  for (int32_t t = 0; t < 100; ++t) {
    const TestToken token = mixer.Token();
    for (const float x : token.value) {
      low = std::min(low, x);
      high = std::max(high, x);
    }
    for (const float o : mixer.Step(token)) {
      EXPECT_GE(o, low);
      EXPECT_LE(o, high);
    }
  }
}

// docs/MATH.md 6: query and key keep disjoint supports; the linear read gives 0/0.
TEST(MixerStep, ReadsTheOnlyValueWhenQueryAndKeyAreApart) {
  TestMixer mixer(5);
  mixer.constants.heads = mixer.constants.memory_heads = 1;
  mixer.constants.components = 4;
  mixer.constants.routing_dim = 1;
  mixer.Build();
  // A query at x = 0 has the scores w0, a key at x = 1 the scores w0 + w1.
  mixer.SetScores({-230, 200, 5, 5}, {0, -200, -210, -220});
  TestToken token = mixer.Token();
  token.route_q = {0};
  token.route_k = {1};
  token.value.assign(8, 2.5f);
  EXPECT_THAT(mixer.Step(token), ::testing::Each(2.5f));
}

TEST(MixerStep, WindowOfAllTokensIsFullAttention) {
  for (const bool adapted : {false, true}) {
    TestMixer mixer(6);
    mixer.constants.window = 20;
    mixer.constants.adapted = adapted;
    mixer.Build();
    const int32_t v = mixer.constants.head_dim;
    std::vector<TestToken> tokens;
    std::vector<std::vector<double>> keys;
    for (int32_t t = 0; t < 20; ++t) {
      tokens.push_back(mixer.Token());
      keys.push_back(Rotated(tokens[t].k, t, 10000, v));
      const std::vector<double> queries = Rotated(tokens[t].q, t, 10000, v);
      const std::vector<float> out = mixer.Step(tokens[t]);
      for (int32_t h = 0; h < mixer.constants.heads; ++h) {
        const std::vector<double> q(queries.begin() + h * v, queries.begin() + (h + 1) * v);
        const std::vector<double> expected = FullAttention(mixer, h, q, keys, tokens);
        for (int32_t i = 0; i < v; ++i) EXPECT_NEAR(out[h * v + i], expected[i], 2e-6);
      }
    }
  }
}

// If the keys of a slot coincide, reading its mean with log mass is exact (docs/MATH.md 11.1).
TEST(MixerStep, DistinctKeysWithOneHotRoutingAreFullAttention) {
  for (const int32_t window : {0, 6}) {
    TestMixer mixer(7);
    mixer.constants.window = window;
    mixer.constants.adapted = true;
    mixer.Build();
    mixer.NeutralSlots();
    const int32_t v = mixer.constants.head_dim, K = mixer.constants.components;
    // Scores k x - k^2 / 2, sharpened: a routing vector x = k goes to slot k alone.
    std::vector<double> w1(K), w0(K);
    for (int32_t k = 0; k < K; ++k) {
      w1[k] = 1000.0 * k;
      w0[k] = -500.0 * k * k;
    }
    mixer.SetScores(w1, w0);
    std::vector<std::vector<float>> slot_keys;  // after rotation, [K][G v]
    for (int32_t k = 0; k < K; ++k) slot_keys.push_back(mixer.random.Floats(2 * v));

    std::vector<TestToken> tokens;
    std::vector<std::vector<double>> keys;
    for (int32_t t = 0; t < 60; ++t) {
      TestToken token = mixer.Token();
      const int32_t slot = (t * t + 3 * t) % K;
      const int32_t r = mixer.constants.routing_dim;
      for (int32_t g = 0; g < 2; ++g) token.route_k[g * r] = static_cast<float>(slot);
      const std::vector<double> unrotated = Rotated(slot_keys[slot], t, 10000, v, -1);
      token.k.assign(unrotated.begin(), unrotated.end());
      tokens.push_back(token);
      keys.emplace_back(slot_keys[slot].begin(), slot_keys[slot].end());
      const std::vector<double> queries = Rotated(token.q, t, 10000, v);
      const std::vector<float> out = mixer.Step(token);
      for (int32_t h = 0; h < mixer.constants.heads; ++h) {
        const std::vector<double> q(queries.begin() + h * v, queries.begin() + (h + 1) * v);
        const std::vector<double> expected = FullAttention(mixer, h, q, keys, tokens);
        for (int32_t i = 0; i < v; ++i) EXPECT_NEAR(out[h * v + i], expected[i], 3e-6);
      }
    }
  }
}

// With one component the gate alone decides: an exponentially weighted mean of the values.
TEST(MixerStep, HeadGateWeighsValuesByTheirAge) {
  TestMixer mixer(8);
  mixer.constants.components = 1;
  mixer.constants.forget_head = true;
  mixer.Build();
  std::vector<TestToken> tokens;
  std::vector<float> out;
  for (int32_t t = 0; t < 40; ++t) {
    tokens.push_back(mixer.Token());
    out = mixer.Step(tokens.back());
  }
  double sum = 0, weights = 0;
  for (int32_t t = 0; t < 40; ++t) {
    const double weight = std::exp(-0.25 * (39 - t));
    weights += weight;
    sum += weight * tokens[t].value[0];
  }
  EXPECT_NEAR(out[0], sum / weights, 1e-6);
  EXPECT_NEAR(mixer.mass[0], weights, 1e-12);
}

// A slot ages only when it is written: its mass settles at r / (1 - exp(-beta r)) (MATH.md 11, 2a).
TEST(MixerStep, WriteGateBoundsTheMass) {
  TestMixer mixer(9);
  mixer.constants.components = 2;
  mixer.constants.forget_write = true;
  mixer.Build();
  mixer.SetScores({0, 0}, {std::log(0.9), std::log(0.1)});
  for (int32_t t = 0; t < 3000; ++t) mixer.Step(mixer.Token());
  EXPECT_NEAR(mixer.mass[0], 0.9 / -std::expm1(-0.3 * 0.9), 1e-9);
  EXPECT_NEAR(mixer.mass[1], 0.1 / -std::expm1(-0.3 * 0.1), 1e-9);
}

TEST(MixerStep, SlotWithoutResponsibilityOnlyDecays) {
  TestMixer mixer(10);
  mixer.constants.components = 2;
  mixer.constants.forget_head = true;
  mixer.Build();
  mixer.Step(mixer.Token());
  const std::vector<float> memory = mixer.memory;
  const double mass = mixer.mass[1];
  mixer.SetScores({0, 0}, {0, -100});  // e^-100 is below the flush threshold
  mixer.Step(mixer.Token());
  EXPECT_DOUBLE_EQ(mixer.mass[1], mass * std::exp(-0.25));
  for (int32_t i = 0; i < 8; ++i) EXPECT_EQ(mixer.memory[8 + i], memory[8 + i]);
}

TEST(MixerStep, HeadsMayRunInAnyOrder) {
  TestMixer together(11), apart(11);
  for (TestMixer* mixer : {&together, &apart}) {
    mixer->constants.window = 3;
    mixer->constants.conv_width = 4;
    mixer->gated = true;
    mixer->Build();
  }
  for (int32_t t = 0; t < 20; ++t) {
    const std::vector<float> expected = together.Step(together.Token());
    std::vector<float> out(expected.size());
    const TestToken token = apart.Token();
    const RopeAngles angles(apart.position, 10000, 8);
    for (const int32_t g : {1, 0}) {
      reference::MixerHeadStep(apart.constants, apart.Input(token), apart.state, &angles, g,
                               out.data());
    }
    ++apart.position;
    EXPECT_EQ(out, expected);
  }
}

TEST(Rope, InnerProductsDependOnTheDistanceAloneAtAnyPosition) {
  testing::RandomNumbers random(12);
  const std::vector<float> q = random.Floats(16), k = random.Floats(16);
  const auto product = [&](int64_t at_q, int64_t at_k) {
    const std::vector<double> a = Rotated(q, at_q, 10000, 16), b = Rotated(k, at_k, 10000, 16);
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  const double near = product(7, 0);
  EXPECT_NEAR(product(1'000'007, 1'000'000), near, 1e-8);
  EXPECT_NEAR(product(1'000'000'007, 1'000'000'000), near, 1e-5);
}

}  // namespace
}  // namespace gma
