#include "model/kernels/score_matrix.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/kernels/test_mixer.h"

namespace gma {
namespace {

constexpr int32_t kHeads = 2, kComponents = 7, kWidth = 4;

class ScoreMatrixTest : public ::testing::TestWithParam<float> {
 protected:
  ScoreMatrixTest() : random_(1) {
    const size_t parameters = kHeads * kComponents * kWidth;
    mean_ = random_.Floats(parameters, GetParam());
    prior_ = random_.Floats(kHeads * kComponents);
    for (const float x : random_.Floats(parameters)) variance_.push_back(std::exp(x));
    w2_.resize(parameters);
    w1_.resize(parameters);
    w0_.resize(kHeads * kComponents);
    BuildScoreMatrix({kHeads, kComponents, kWidth, mean_.data(), variance_.data(), prior_.data()},
                     w2_.data(), w1_.data(), w0_.data());
  }

  // docs/MATH.md 2, by the definition.
  double DirectScore(int32_t g, int32_t k, const std::vector<float>& x) const {
    double score = prior_[g * kComponents + k];
    for (int32_t m = 0; m < kWidth; ++m) {
      const size_t entry = (g * kComponents + k) * kWidth + m;
      const double gap = static_cast<double>(x[m]) - mean_[entry];
      score -= 0.5 * (std::log(variance_[entry]) + gap * gap / variance_[entry]);
    }
    return score;
  }

  double MatrixScore(int32_t g, int32_t k, const std::vector<float>& x) const {
    double score = w0_[g * kComponents + k];
    for (int32_t m = 0; m < kWidth; ++m) {
      const size_t entry = (g * kWidth + m) * kComponents + k;
      score += w2_[entry] * x[m] * x[m] + w1_[entry] * x[m];
    }
    return score;
  }

  testing::RandomNumbers random_;
  std::vector<float> mean_, prior_;
  std::vector<double> variance_, w2_, w1_, w0_;
};

TEST_P(ScoreMatrixTest, DiffersFromTheDefinitionByANumberPerVectorOnly) {
  for (int32_t trial = 0; trial < 20; ++trial) {
    const std::vector<float> x = random_.Floats(kWidth, GetParam());
    for (int32_t g = 0; g < kHeads; ++g) {
      const double gauge = MatrixScore(g, 0, x) - DirectScore(g, 0, x);
      for (int32_t k = 1; k < kComponents; ++k) {
        EXPECT_NEAR(MatrixScore(g, k, x) - DirectScore(g, k, x), gauge, 1e-10);
      }
    }
  }
}

TEST_P(ScoreMatrixTest, EveryRowIsCentredOverComponents) {
  for (int32_t row = 0; row < kHeads * kWidth; ++row) {
    double sum2 = 0, sum1 = 0;
    for (int32_t k = 0; k < kComponents; ++k) {
      sum2 += w2_[row * kComponents + k];
      sum1 += w1_[row * kComponents + k];
    }
    EXPECT_NEAR(sum2, 0, 1e-11);
    EXPECT_NEAR(sum1, 0, 1e-11);
  }
}

// Means around 0, and around a large common offset, where the expanded square cancels.
INSTANTIATE_TEST_SUITE_P(Offsets, ScoreMatrixTest, ::testing::Values(0.0f, 30.0f));

}  // namespace
}  // namespace gma
