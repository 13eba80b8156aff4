// Precision of the state over long streams (docs/MATH.md 7 and 13.9).
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "model/kernels/reference/mixer_parts.h"
#include "tests/unit/kernels/test_mixer.h"

namespace gma {
namespace {

using ::gma::testing::TestMixer;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kTokens = 50'000;  // a sanitizer is twenty times slower
#else
constexpr int64_t kTokens = 1'000'000;
#endif

// One memory head, K = 16, 64 values from N(1, 1): the set-up behind the figures quoted below.
TestMixer LongMixer(bool compensated) {
  TestMixer mixer(1);
  mixer.constants.heads = mixer.constants.memory_heads = 1;
  mixer.constants.components = 16;
  mixer.constants.head_dim = 64;
  mixer.Build(compensated);
  return mixer;
}

// Worst error over the 64 values of a read with the query at the origin of the routing space.
double ReadError(const TestMixer& mixer, const std::vector<double>& sums,
                 const std::vector<double>& mass) {
  reference::HeadToken token = {};
  token.route_q = {0, 0, 0};
  const std::vector<double> read = reference::Read(mixer.constants, mixer.state, kTokens, 0, token);
  std::vector<double> expected(64);
  double weights = 0;
  const std::vector<double> scores = reference::Scores(mixer.constants, 0, token.route_q.data());
  for (int32_t k = 0; k < 16; ++k) {
    weights += std::exp(scores[k]) * mass[k];
    for (int32_t i = 0; i < 64; ++i) expected[i] += std::exp(scores[k]) * sums[k * 64 + i];
  }
  double worst = 0;
  for (int32_t i = 0; i < 64; ++i) {
    worst = std::max(worst, std::fabs(read[i] - expected[i] / weights));
  }
  return worst;
}

TEST(LongStream, MeansKeepTheirFiguresOverAMillionTokens) {
  TestMixer plain = LongMixer(false), compensated = LongMixer(true);
  std::vector<double> mass(16), sums(16 * 64);
  std::mt19937 engine(2);
  std::normal_distribution<double> value(1, 1), route(0, 1);
  std::vector<double> content(64), route_k(3);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (double& x : content) x = value(engine);
    for (double& x : route_k) x = route(engine);
    for (TestMixer* mixer : {&plain, &compensated}) {
      reference::WriteToken(mixer->constants, mixer->state, 0, 0, content, route_k.data(), 0);
    }
    const std::vector<double> resp =
        reference::WriteResponsibilities(reference::Scores(plain.constants, 0, route_k.data()));
    for (int32_t k = 0; k < 16; ++k) {
      mass[k] += resp[k];
      for (int32_t i = 0; i < 64; ++i) sums[k * 64 + i] += resp[k] * content[i];
    }
  }
  for (int32_t k = 0; k < 16; ++k) EXPECT_NEAR(plain.mass[k] / mass[k], 1, 1e-12);
  const double error = ReadError(plain, sums, mass);
  RecordProperty("float32_error", std::to_string(error));
  EXPECT_LT(error, 6e-5);  // 3e-5 was measured for 10^6 tokens on another stream
  EXPECT_LT(ReadError(compensated, sums, mass), 1e-6);
}

// Share of a mean's true movement that is missing after 2^19 more tokens.
double LostMovement(double start_mass, bool compensated) {
  TestMixer mixer(3);
  mixer.constants.heads = mixer.constants.memory_heads = mixer.constants.components = 1;
  mixer.Build(compensated);
  mixer.mass[0] = start_mass;
  mixer.memory.assign(8, 1.0f);
  mixer.state.memory = mixer.memory.data();
  const std::vector<double> content(8, 1.5), route_k(3, 0);
  const int64_t tokens = 1 << 19;
  for (int64_t t = 0; t < tokens; ++t) {
    reference::WriteToken(mixer.constants, mixer.state, 0, 0, content, route_k.data(), 0);
  }
  const double moved = mixer.memory[0] - 1.0;
  const double expected = 0.5 * tokens / (start_mass + tokens);
  return 1 - moved / expected;
}

TEST(LongStream, CompensationKeepsSmallUpdates) {
  EXPECT_LT(std::fabs(LostMovement(0x1p25, /*compensated=*/true)), 5e-4);
  EXPECT_LT(std::fabs(LostMovement(0x1p28, /*compensated=*/true)), 5e-4);
}

TEST(LongStream, WithoutCompensationUpdatesBelowHalfAUnitAreLost) {
  EXPECT_GT(LostMovement(0x1p28, /*compensated=*/false), 0.99);
}

}  // namespace
}  // namespace gma
