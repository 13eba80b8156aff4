// Precision of the SIMD mixer's state over long streams (docs/MATH.md 7): means against a float64
// recurrence with the responsibilities that the kernel wrote.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/kernels/cpu/mixer_case.h"

namespace gma {
namespace {

using ::gma::testing::CaseMixer;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kTokens = 50'000;  // a sanitizer is twenty times slower
#else
constexpr int64_t kTokens = 1'000'000;
#endif
constexpr int32_t kSlots = 4, kRouting = 3, kWidth = 16;

// One memory head whose tokens come one by one.
class Stream {
 public:
  explicit Stream(bool compensated)
      : layer_({.heads = 1,
                .memory_heads = 1,
                .components = kSlots,
                .routing_dim = kRouting,
                .head_dim = kWidth,
                .compensated = compensated},
               11),
        kernel_(layer_.mixer.constants),
        scratch_(hwy::AllocateAligned<uint8_t>(kernel_.scratch_bytes())) {}

  // projected: route_q, route_k, value.
  void Feed(const std::vector<float>& projected) {
    float out[kWidth];
    const cpu::MixerTokens tokens = {.position = position_++,
                                     .count = 1,
                                     .projected = projected.data(),
                                     .stride = static_cast<int64_t>(projected.size()),
                                     .route_q = 0,
                                     .route_k = kRouting,
                                     .value = 2 * kRouting,
                                     .q = cpu::MixerTokens::kAbsent,
                                     .k = cpu::MixerTokens::kAbsent,
                                     .gate = cpu::MixerTokens::kAbsent,
                                     .log_decay = nullptr,
                                     .rope_cos = nullptr,
                                     .rope_sin = nullptr,
                                     .out = out,
                                     .out_stride = kWidth};
    kernel_.Run(tokens, layer_.mixer.state, 0, scratch_.get());
  }

  const std::vector<double>& mass() const { return layer_.mixer.mass; }

  // Largest error of a mean, with its compensation where there is one, as a share of the largest.
  double Error(const std::vector<double>& expected) const {
    double worst = 0, top = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      double mean = layer_.mixer.memory[i];
      if (!layer_.mixer.compensation.empty()) mean += layer_.mixer.compensation[i];
      worst = std::max(worst, std::fabs(mean - expected[i]));
      top = std::max(top, std::fabs(expected[i]));
    }
    return worst / top;
  }

 private:
  CaseMixer layer_;
  cpu::Mixer kernel_;
  hwy::AlignedFreeUniquePtr<uint8_t[]> scratch_;
  int64_t position_ = 0;
};

TEST(MixerLongStream, CompensatedMeansStayWithinAMillionth) {
  Stream plain(false), compensated(true);
  std::vector<double> mass(kSlots), mean(kSlots * kWidth);
  std::vector<float> projected(2 * kRouting + kWidth);
  std::mt19937 engine(2);
  std::normal_distribution<float> normal(0, 1);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (float& x : projected) x = normal(engine);
    for (int32_t i = 0; i < kWidth; ++i) projected[2 * kRouting + i] += 1;
    plain.Feed(projected);
    compensated.Feed(projected);
    for (int32_t k = 0; k < kSlots; ++k) {
      const double resp = compensated.mass()[k] - mass[k];
      mass[k] = compensated.mass()[k];
      for (int32_t i = 0; i < kWidth; ++i) {
        double& expected = mean[k * kWidth + i];
        expected += resp / mass[k] * (projected[2 * kRouting + i] - expected);
      }
    }
  }
  EXPECT_EQ(plain.mass(), compensated.mass());
  double total = 0;
  for (const double slot : mass) total += slot;
  EXPECT_NEAR(total / kTokens, 1, 1e-8);
  const double error = compensated.Error(mean), plain_error = plain.Error(mean);
  std::printf("relative error of means after %lld tokens: compensated %.1e, float32 %.1e\n",
              static_cast<long long>(kTokens), error, plain_error);
  EXPECT_LT(error, 1e-6);
  EXPECT_LT(plain_error, 1e-4);  // float32 means: docs/MATH.md 7 has 3e-5
}

}  // namespace
}  // namespace gma
