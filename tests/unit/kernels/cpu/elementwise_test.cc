#include "model/kernels/cpu/elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/kernels/cpu/targets.h"

namespace gma {
namespace {

using ::gma::testing::ScopedTarget;
using ::gma::testing::Targets;

std::vector<float> Random(size_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& x : numbers) x = normal(engine);
  return numbers;
}

TEST(RmsNorm, IsItsFormula) {
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const ScopedTarget scoped(target);
    for (const size_t size : {1u, 7u, 16u, 33u, 576u}) {
      const std::vector<float> x = Random(size, 1), gain = Random(size, 2);
      std::vector<float> y(size);
      cpu::RmsNorm(x.data(), gain.data(), 1e-5f, static_cast<int64_t>(size), y.data());
      double square = 0;
      for (const float number : x) square += double{number} * number;
      const double scale = 1 / std::sqrt(square / static_cast<double>(size) + 1e-5);
      for (size_t i = 0; i < size; ++i) EXPECT_NEAR(y[i], x[i] * scale * gain[i], 2e-6) << size;
    }
  }
}

TEST(RmsNorm, OfZeroIsZero) {
  const std::vector<float> x(40, 0.0f), gain(40, 3.0f);
  std::vector<float> y(40, 7.0f);
  cpu::RmsNorm(x.data(), gain.data(), 1e-5f, 40, y.data());
  for (const float number : y) EXPECT_EQ(number, 0);
}

TEST(RoundInput, IsTheNearestWholeNumberOnEveryCpu) {
  const std::vector<float> x = Random(96, 3);
  float largest = 0;
  for (const float number : x) largest = std::max(largest, std::fabs(number));
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const ScopedTarget scoped(target);
    std::vector<int16_t> q(96);
    std::vector<float> sums(3);
    EXPECT_EQ(cpu::RoundInput(x.data(), 3, q.data(), sums.data()), largest / 32767);
    for (size_t g = 0; g < 3; ++g) {
      int32_t sum = 0;
      for (size_t i = 32 * g; i < 32 * g + 32; ++i) {
        EXPECT_EQ(q[i], std::nearbyint(x[i] * (32767 / largest)));
        sum += q[i];
      }
      EXPECT_EQ(sums[g], sum);
    }
  }
}

TEST(RoundInput, OfZeroIsZeroAndWhatIsNotFiniteShows) {
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const ScopedTarget scoped(target);
    std::vector<float> x(32, 0.0f), sums(1, 1.0f);
    std::vector<int16_t> q(32, 1);
    EXPECT_EQ(cpu::RoundInput(x.data(), 1, q.data(), sums.data()), 0);
    EXPECT_EQ(q[31], 0);
    EXPECT_EQ(sums[0], 0);
    for (const float number : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
      x = Random(32, 4);
      x[21] = -number;
      EXPECT_TRUE(std::isnan(cpu::RoundInput(x.data(), 1, q.data(), sums.data())));
    }
  }
}

}  // namespace
}  // namespace gma
