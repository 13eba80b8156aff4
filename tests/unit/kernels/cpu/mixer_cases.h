// The layers that every mixer kernel is tested on, and how its results are compared.
#ifndef GMA_TESTS_UNIT_KERNELS_CPU_MIXER_CASES_H_
#define GMA_TESTS_UNIT_KERNELS_CPU_MIXER_CASES_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/kernels/cpu/mixer_case.h"

namespace gma::testing {

// Single options, all at once, sizes around 16 and 32 lanes, head groups above four, and the sizes
// of the default model. Windows that 80 tokens overflow.
inline const MixerCase kMixerCases[] = {
    {.name = "Plain"},
    {.name = "ForgetHead", .forget_head = true},
    {.name = "ForgetWrite", .forget_write = true},
    {.name = "ShortConv", .conv_width = 4},
    {.name = "ConvOfOne", .conv_width = 1},
    {.name = "RouteNorm", .route_norm = true},
    {.name = "OutNorm", .out_norm = true},
    {.name = "OutGate", .gated = true},
    {.name = "Compensated", .compensated = true},
    {.name = "WindowStatic", .window = 6},
    {.name = "Adapted", .adapted = true},
    {.name = "AdaptedForgetHead", .adapted = true, .forget_head = true},
    {.name = "WindowAdapted", .window = 20, .adapted = true},
    {.name = "Horizon", .adapted = true, .slot_horizon = 5},
    {.name = "WindowHorizon",
     .window = 9,
     .adapted = true,
     .forget_write = true,
     .compensated = true,
     .slot_horizon = 10},
    {.name = "KeyRoute", .adapted = true, .route_from_key = true},
    {.name = "WindowKeyRoute",
     .components = 17,
     .routing_dim = 19,
     .head_dim = 38,
     .window = 9,
     .adapted = true,
     .forget_write = true,
     .slot_horizon = 10,
     .route_from_key = true},
    {.name = "WindowForgetHead", .window = 5, .forget_head = true},
    {.name = "WindowForgetWrite", .window = 5, .adapted = true, .forget_write = true},
    {.name = "EverythingStatic",
     .window = 7,
     .conv_width = 3,
     .forget_head = true,
     .route_norm = true,
     .out_norm = true,
     .gated = true,
     .compensated = true},
    {.name = "EverythingAdapted",
     .window = 7,
     .conv_width = 4,
     .adapted = true,
     .forget_write = true,
     .route_norm = true,
     .out_norm = true,
     .gated = true,
     .compensated = true},
    {.name = "TailsOfRows",
     .components = 17,
     .routing_dim = 19,
     .head_dim = 38,
     .window = 33,
     .adapted = true,
     .out_norm = true,
     .gated = true,
     .compensated = true},
    {.name = "TailsStatic", .components = 33, .head_dim = 50, .window = 17},
    {.name = "NineHeadsOnOneMemory",
     .heads = 9,
     .memory_heads = 1,
     .components = 16,
     .head_dim = 48,
     .window = 16,
     .adapted = true},
    {.name = "FiveHeadsOnOneMemory",
     .heads = 5,
     .memory_heads = 1,
     .components = 20,
     .head_dim = 32,
     .adapted = true,
     .compensated = true},
    {.name = "FiveHeadsStatic", .heads = 5, .memory_heads = 1, .components = 20, .window = 4},
    {.name = "OneHead", .heads = 1, .memory_heads = 1, .head_dim = 64, .forget_write = true},
    {.name = "Default",
     .heads = 9,
     .memory_heads = 3,
     .components = 64,
     .routing_dim = 32,
     .head_dim = 64,
     .window = 32,
     .adapted = true,
     .forget_write = true},
    {.name = "WideHeads",
     .heads = 2,
     .memory_heads = 1,
     .components = 128,
     .routing_dim = 32,
     .head_dim = 128,
     .window = 16,
     .adapted = true},
    {.name = "WidestHeads",
     .heads = 3,
     .memory_heads = 1,
     .components = 40,
     .routing_dim = 32,
     .head_dim = 256,
     .window = 4,
     .adapted = true},
};

inline std::vector<TestToken> Tokens(CaseMixer& layer, size_t count) {
  std::vector<TestToken> tokens;
  for (size_t t = 0; t < count; ++t) tokens.push_back(layer.mixer.Token());
  return tokens;
}

// Largest |a - b|, as a share of the largest |b| or of 1; infinite for NaN.
template <typename T>
double Distance(const std::vector<T>& a, const std::vector<T>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0, top = 1;
  for (size_t i = 0; i < b.size(); ++i) {
    const double gap = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(gap <= worst)) worst = std::isnan(gap) ? INFINITY : gap;
    top = std::max(top, std::fabs(static_cast<double>(b[i])));
  }
  return worst / top;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_KERNELS_CPU_MIXER_CASES_H_
