#include "model/kernels/cpu/elementwise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Sixteen lanes whatever the vectors' width, so that a sum has one order.
constexpr int64_t kLanes = 16;
const hn::CappedTag<float, kLanes> d16;

// Adds lanes 8 to 15 to 0 to 7, then 4 to 7 to 0 to 3, and so on.
float FoldLanes(const float* lanes) {
  float folded[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) folded[i] = lanes[i];
  for (int64_t half = kLanes / 2; half >= 1; half /= 2) {
    for (int64_t i = 0; i < half; ++i) folded[i] += folded[half + i];
  }
  return folded[0];
}

float SquareSum(const float* x, int64_t size) {
  const int64_t width = static_cast<int64_t>(hn::Lanes(d16));
  HWY_ALIGN float sums[kLanes] = {};
  int64_t begin = 0;
  for (; begin + kLanes <= size; begin += kLanes) {
    for (int64_t i = 0; i < kLanes; i += width) {
      const auto v = hn::LoadU(d16, x + begin + i);
      hn::Store(hn::MulAdd(v, v, hn::Load(d16, sums + i)), d16, sums + i);
    }
  }
  for (int64_t i = begin; i < size; ++i) {
    const hn::CappedTag<float, 1> d1;
    const auto v = hn::LoadU(d1, x + i);
    sums[i - begin] = hn::GetLane(hn::MulAdd(v, v, hn::LoadU(d1, sums + i - begin)));
  }
  return FoldLanes(sums);
}

void RmsNormImpl(const float* x, const float* gain, float eps, int64_t size, float* y) {
  const float scale = 1.0f / std::sqrt(SquareSum(x, size) / static_cast<float>(size) + eps);
  const int64_t width = static_cast<int64_t>(hn::Lanes(d16));
  const auto factor = hn::Set(d16, scale);
  int64_t i = 0;
  for (; i + width <= size; i += width) {
    const auto v = hn::Mul(hn::LoadU(d16, x + i), factor);
    hn::StoreU(hn::Mul(v, hn::LoadU(d16, gain + i)), d16, y + i);
  }
  for (; i < size; ++i) y[i] = x[i] * scale * gain[i];
}

// The largest magnitude. As whole numbers, so that infinity and NaN are the largest of all.
float Largest(const float* x, int64_t size) {
  const hn::RebindToUnsigned<decltype(d16)> bits;
  const int64_t width = static_cast<int64_t>(hn::Lanes(d16));
  auto most = hn::Zero(bits);
  for (int64_t i = 0; i < size; i += width) {
    most = hn::Max(most, hn::BitCast(bits, hn::Abs(hn::LoadU(d16, x + i))));
  }
  HWY_ALIGN uint32_t lanes[kLanes] = {};
  hn::Store(most, bits, lanes);
  return std::bit_cast<float>(*std::max_element(lanes, lanes + kLanes));
}

float RoundInputImpl(const float* x, int64_t groups, int16_t* q, float* sums) {
  const hn::RebindToSigned<decltype(d16)> whole;
  const hn::Rebind<int16_t, decltype(d16)> half;
  const int64_t width = static_cast<int64_t>(hn::Lanes(d16));
  const float largest = Largest(x, 2 * kLanes * groups);
  if (!std::isfinite(largest) || largest < 1e-30f) {
    std::fill(q, q + 2 * kLanes * groups, int16_t{0});
    std::fill(sums, sums + groups, 0.0f);
    return std::isfinite(largest) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  const auto factor = hn::Set(d16, 32767 / largest);
  HWY_ALIGN int32_t lanes[kLanes];
  for (int64_t group = 0; group < groups; ++group) {
    auto sum = hn::Zero(whole);
    for (int64_t i = group * 2 * kLanes; i < (group + 1) * 2 * kLanes; i += width) {
      const auto n = hn::NearestInt(hn::Mul(hn::LoadU(d16, x + i), factor));
      sum = hn::Add(sum, n);
      hn::StoreU(hn::DemoteTo(half, n), half, q + i);
    }
    hn::Store(sum, whole, lanes);
    sums[group] = static_cast<float>(std::accumulate(lanes, lanes + width, 0));
  }
  return largest / 32767;
}

}  // namespace
}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gma::cpu {

HWY_EXPORT(RmsNormImpl);
HWY_EXPORT(RoundInputImpl);

void RmsNorm(const float* x, const float* gain, float eps, int64_t size, float* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormImpl)(x, gain, eps, size, y);
}

float RoundInput(const float* x, int64_t groups, int16_t* q, float* sums) {
  return HWY_DYNAMIC_DISPATCH(RoundInputImpl)(x, groups, q, sums);
}

}  // namespace gma::cpu
#endif  // HWY_ONCE
