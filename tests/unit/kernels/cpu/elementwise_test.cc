#include "model/kernels/cpu/elementwise.h"

#include <cmath>
#include <cstdint>
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

TEST(GroupSums, AddsThirtyTwoEach) {
  const std::vector<float> x = Random(96, 3);
  for (const int64_t target : Targets()) {
    const ScopedTarget scoped(target);
    std::vector<float> sums(3);
    cpu::GroupSums(x.data(), 3, sums.data());
    for (size_t g = 0; g < 3; ++g) {
      double sum = 0;
      for (size_t i = 0; i < 32; ++i) sum += x[32 * g + i];
      EXPECT_NEAR(sums[g], sum, 1e-5) << hwy::TargetName(target);
    }
  }
}

}  // namespace
}  // namespace gma
