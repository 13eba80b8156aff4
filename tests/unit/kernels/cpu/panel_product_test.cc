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
  std::vector<float> x, scales, sums;
  std::vector<int16_t> q;  // x in 16 bits

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
    Round();
  }

  void Round() {
    q.resize(x.size());
    scales.resize(static_cast<size_t>(tokens));
    sums.resize(x.size() / 32);
    for (int64_t t = 0; t < tokens; ++t) {
      scales[static_cast<size_t>(t)] = cpu::RoundInput(
          x.data() + t * stride, stride / 32, q.data() + t * stride, sums.data() + t * stride / 32);
    }
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
    cpu::FetchQueue fetch(4);
    fetch.Add(x.data(), x.size() * sizeof(float));
    const cpu::ProductArgs args = {.weights = &weights,
                                   .use = use,
                                   .tokens = count,
                                   .x = x.data() + first * stride,
                                   .rounded = {q.data() + first * stride, scales.data() + first,
                                               sums.data() + first * stride / 32},
                                   .x_stride = stride,
                                   .fetch = &fetch,
                                   .y = y.data(),
                                   .y_stride = width};
    const int64_t middle = weights.panels() / 4 * 2;
    cpu::PanelProduct(args, middle, weights.panels(), scratch.get());
    cpu::PanelProduct(args, 0, middle, scratch.get());
    return y;
  }

  bool integers() const {
    return weights.format() == WeightFormat::kInt8 || weights.format() == WeightFormat::kInt4;
  }

  // In double, over the weights as they are packed and the input as it is rounded for them.
  double Exact(int64_t token, int64_t row) const {
    std::vector<float> unpacked(static_cast<size_t>(weights.cols()));
    weights.UnpackRow(row, unpacked.data());
    double sum = 0;
    for (int64_t k = 0; k < weights.cols(); ++k) {
      const size_t place = static_cast<size_t>(token * stride + k);
      const double input =
          integers() ? double{scales[static_cast<size_t>(token)]} * q[place] : double{x[place]};
      sum += double{unpacked[static_cast<size_t>(k)]} * input;
    }
    return sum;
  }
};

TEST(PanelProduct, IsTheProductWithTheWeightsAsPacked) {
  for (const int64_t target : Targets()) {
    const ScopedTarget scoped(target);
    for (const WeightFormat format : kFormats) {
      for (const auto& [rows, cols] :
           {std::pair{1, 1}, std::pair{33, 7}, std::pair{96, 100}, std::pair{33, 601}}) {
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
  std::vector<int64_t> fused = Targets();  // those with fused multiply-add
  std::erase_if(fused, [](int64_t target) { return target == HWY_SSE4 || target == HWY_SCALAR; });
  for (const WeightFormat format : kFormats) {
    const Case product(format, 128, 600, 40);
    for (const ProductUse use : {ProductUse::kStore, ProductUse::kSwiGlu}) {
      // Sums of int8 weights are whole numbers, and what becomes of them needs no fusing.
      const bool all = format == WeightFormat::kInt8 && use == ProductUse::kStore;
      std::vector<float> first;
      for (const int64_t target : all ? Targets() : fused) {
        const ScopedTarget scoped(target);
        const std::vector<float> y = product.Run(use, 0, 40);
        if (first.empty()) first = y;
        EXPECT_EQ(std::memcmp(y.data(), first.data(), y.size() * sizeof(float)), 0)
            << hwy::TargetName(target) << " format " << static_cast<int>(format) << " use "
            << static_cast<int>(use);
      }
    }
  }
}

// The largest weights with the largest inputs, where sums come closest to 2^31.
TEST(PanelProduct, WholeNumbersDoNotOverflow) {
  for (const int64_t target : Targets()) {
    const ScopedTarget scoped(target);
    Case product(WeightFormat::kInt8, 32, 1024, 2);
    product.weights.PackPanels([](int64_t, float* out) { std::fill(out, out + 1024, 127.0f); }, 0,
                               1);
    std::fill(product.x.begin(), product.x.end(), 2.0f);
    product.Round();
    for (const float number : product.Run(ProductUse::kStore, 0, 2)) {
      EXPECT_NEAR(number, 1024 * 127 * 2, 0.1) << hwy::TargetName(target);
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
