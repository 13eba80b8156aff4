#include "model/kernels/cpu/panel_product.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/aligned_allocator.h"
#include "model/kernels/cpu/elementwise.h"
#include "tests/unit/kernels/cpu/targets.h"

namespace gma {
namespace {

using cpu::PackedMatrix;
using cpu::ProductUse;
using cpu::WeightFormat;
using ::gma::testing::ScopedTarget;
using ::gma::testing::Targets;

constexpr WeightFormat kFormats[] = {WeightFormat::kFloat32, WeightFormat::kBFloat16,
                                     WeightFormat::kInt8, WeightFormat::kInt4};

// A matrix and inputs of one shape.
struct Case {
  HugeArena arena;
  int64_t tokens, stride;
  PackedMatrix weights;
  std::vector<float> x, sums;

  Case(WeightFormat format, int64_t rows, int64_t cols, int64_t token_count)
      : tokens(token_count), stride(cpu::PaddedColumns(cols)), weights(format, rows, cols, arena) {
    std::mt19937 engine(3);
    std::normal_distribution<float> normal;
    weights.PackPanels(
        [&](int64_t, float* out) {
          for (int64_t k = 0; k < cols; ++k) out[k] = normal(engine);
        },
        0, weights.panels());
    x.resize(static_cast<size_t>(tokens * stride));
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t k = 0; k < cols; ++k) x[static_cast<size_t>(t * stride + k)] = normal(engine);
    }
    sums.resize(x.size() / 32);
    cpu::GroupSums(x.data(), static_cast<int64_t>(sums.size()), sums.data());
  }

  int64_t outputs(ProductUse use) const {
    return use == ProductUse::kSwiGlu ? weights.rows() / 2 : weights.rows();
  }

  // The outputs [count, outputs] of tokens [first, first + count).
  std::vector<float> Run(ProductUse use, int64_t first, int64_t count,
                         std::vector<float> y = {}) const {
    const int64_t width = outputs(use);
    y.resize(static_cast<size_t>(count * width));
    const auto scratch = hwy::AllocateAligned<uint8_t>(cpu::ProductScratchBytes());
    const cpu::ProductArgs args = {.weights = &weights,
                                   .use = use,
                                   .tokens = count,
                                   .x = x.data() + first * stride,
                                   .x_stride = stride,
                                   .x_sums = sums.data() + first * stride / 32,
                                   .y = y.data(),
                                   .y_stride = width};
    const int64_t middle = weights.panels() / 4 * 2;
    cpu::PanelProduct(args, middle, weights.panels(), scratch.get());
    cpu::PanelProduct(args, 0, middle, scratch.get());
    return y;
  }

  // In double, over the weights as they are packed.
  double Exact(int64_t token, int64_t row) const {
    std::vector<float> unpacked(static_cast<size_t>(weights.cols()));
    weights.UnpackRow(row, unpacked.data());
    double sum = 0;
    for (int64_t k = 0; k < weights.cols(); ++k) {
      sum += double{unpacked[static_cast<size_t>(k)]} * x[static_cast<size_t>(token * stride + k)];
    }
    return sum;
  }
};

TEST(PanelProduct, IsTheProductWithTheWeightsAsPacked) {
  for (const int64_t target : Targets()) {
    const ScopedTarget scoped(target);
    for (const WeightFormat format : kFormats) {
      for (const auto& [rows, cols] : {std::pair{1, 1}, std::pair{33, 7}, std::pair{96, 100}}) {
        const Case product(format, rows, cols, 14);
        const std::vector<float> y = product.Run(ProductUse::kStore, 0, 14);
        for (int64_t t : {0, 13}) {
          for (int64_t r = 0; r < rows; ++r) {
            EXPECT_NEAR(y[static_cast<size_t>(t * rows + r)], product.Exact(t, r), 1e-4)
                << hwy::TargetName(target) << " format " << static_cast<int>(format) << " rows "
                << rows << " token " << t << " row " << r;
          }
        }
      }
    }
  }
}

// Every tile's width, several tiles in place, tiles over a widened block, and more than one run of
// tokens: the bits of each token are those it has alone.
TEST(PanelProduct, ATokenHasTheBitsItHasAlone) {
  for (const int64_t target : Targets()) {
    const ScopedTarget scoped(target);
    for (const WeightFormat format : kFormats) {
      const Case product(format, 70, 170, 210);
      std::vector<float> alone;
      for (int64_t t = 0; t < product.tokens; ++t) {
        const std::vector<float> y = product.Run(ProductUse::kStore, t, 1);
        alone.insert(alone.end(), y.begin(), y.end());
      }
      for (const int64_t count : {2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 24, 30, 48, 49, 64, 97, 210}) {
        const int64_t first = (7 * count) % (product.tokens - count + 1);
        const std::vector<float> y = product.Run(ProductUse::kStore, first, count);
        EXPECT_EQ(std::memcmp(y.data(), alone.data() + first * 70, y.size() * sizeof(float)), 0)
            << hwy::TargetName(target) << " format " << static_cast<int>(format) << ", " << count
            << " tokens";
      }
    }
  }
}

TEST(PanelProduct, VectorsOfAnyWidthGiveTheSameBits) {
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) GTEST_SKIP() << "no AVX-512 on this CPU";
  for (const WeightFormat format : kFormats) {
    const Case product(format, 128, 96, 40);
    for (const ProductUse use : {ProductUse::kStore, ProductUse::kSwiGlu}) {
      std::vector<float> wide, narrow;
      {
        const ScopedTarget scoped(HWY_AVX3);
        wide = product.Run(use, 0, 40);
      }
      {
        const ScopedTarget scoped(HWY_AVX2);
        narrow = product.Run(use, 0, 40);
      }
      EXPECT_EQ(std::memcmp(wide.data(), narrow.data(), wide.size() * sizeof(float)), 0)
          << "format " << static_cast<int>(format) << " use " << static_cast<int>(use);
    }
  }
}

TEST(PanelProduct, AddsToWhatIsThere) {
  for (const WeightFormat format : kFormats) {
    const Case product(format, 50, 64, 3);
    const std::vector<float> plain = product.Run(ProductUse::kStore, 0, 3);
    const std::vector<float> before(plain.size(), 2.5f);
    const std::vector<float> sum = product.Run(ProductUse::kAdd, 0, 3, before);
    for (size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(sum[i], 2.5f + plain[i]);
  }
}

TEST(PanelProduct, SwiGluTakesPanelsOfGateAndUpInTurn) {
  for (const int64_t target : Targets()) {
    const ScopedTarget scoped(target);
    for (const WeightFormat format : kFormats) {
      const Case product(format, 128, 40, 5);
      const std::vector<float> y = product.Run(ProductUse::kSwiGlu, 0, 5);
      for (int64_t i = 0; i < 64; ++i) {
        const int64_t gate_row = i / 32 * 64 + i % 32;
        const double gate = product.Exact(4, gate_row), up = product.Exact(4, gate_row + 32);
        EXPECT_NEAR(y[static_cast<size_t>(4 * 64 + i)], gate / (1 + std::exp(-gate)) * up, 1e-3)
            << hwy::TargetName(target) << " format " << static_cast<int>(format);
      }
    }
  }
}

// silu(-1000) is 0 and silu(1000) is 1000, though the exponential between leaves its range.
TEST(PanelProduct, SwiGluOfHugeNumbersIsFinite) {
  Case product(WeightFormat::kFloat32, 64, 1, 2);
  product.weights.PackPanels([](int64_t, float* out) { out[0] = 1; }, 0, 2);
  product.x[0] = -1000;
  product.x[static_cast<size_t>(product.stride)] = 1000;
  const std::vector<float> y = product.Run(ProductUse::kSwiGlu, 0, 2);
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_NEAR(y[i], 0, 1e-30);
    EXPECT_EQ(y[32 + i], 1e6f);
  }
}

}  // namespace
}  // namespace gma
