#include "model/kernels/cpu/elementwise.h"

#include <cmath>

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

void GroupSumsImpl(const float* x, int64_t groups, float* sums) {
  const int64_t width = static_cast<int64_t>(hn::Lanes(d16));
  HWY_ALIGN float lanes[kLanes];
  for (int64_t group = 0; group < groups; ++group, x += 2 * kLanes) {
    for (int64_t i = 0; i < kLanes; i += width) {
      hn::Store(hn::Add(hn::LoadU(d16, x + i), hn::LoadU(d16, x + kLanes + i)), d16, lanes + i);
    }
    sums[group] = FoldLanes(lanes);
  }
}

}  // namespace
}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gma::cpu {

HWY_EXPORT(RmsNormImpl);
HWY_EXPORT(GroupSumsImpl);

void RmsNorm(const float* x, const float* gain, float eps, int64_t size, float* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormImpl)(x, gain, eps, size, y);
}

void GroupSums(const float* x, int64_t groups, float* sums) {
  HWY_DYNAMIC_DISPATCH(GroupSumsImpl)(x, groups, sums);
}

}  // namespace gma::cpu
#endif  // HWY_ONCE
