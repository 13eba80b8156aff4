// Sixteen virtual float lanes on whatever vectors a target has: number i of a row belongs to lane
// i mod 16 on every target, and a sum over lanes is one fixed tree (i + 8, + 4, + 2, + 1). With
// fused multiply-add, results are therefore equal bits for every vector width. Included once per
// target by Highway's foreach_target; everything here is inlined.
#if defined(GMA_MODEL_KERNELS_CPU_MIXER_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_MIXER_LANES_INL_H_
#undef GMA_MODEL_KERNELS_CPU_MIXER_LANES_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_MIXER_LANES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kWide = 16;
using FloatTag = hn::CappedTag<float, kWide>;
using FloatVec = hn::Vec<FloatTag>;
constexpr size_t kNative = hn::MaxLanes(FloatTag());  // lanes of a register
constexpr size_t kParts = kWide / kNative;

// Loops over parts, heads and chunks have constant counts and must vanish, or their arrays of
// vectors live in memory. Without vectors there is nothing to win but object code.
#undef GMA_UNROLL
#if HWY_TARGET == HWY_SCALAR
#define GMA_UNROLL
#else
#define GMA_UNROLL _Pragma("GCC unroll 16")
#endif

struct Wide {
  FloatVec part[kParts];
};

// One Highway operation on each part.
#define GMA_WIDE_OP1(name, expression)                          \
  HWY_INLINE Wide name(const Wide& a) {                         \
    const FloatTag d;                                           \
    Wide y;                                                     \
    GMA_UNROLL                                                  \
    for (size_t i = 0; i < kParts; ++i) y.part[i] = expression; \
    return y;                                                   \
  }
#define GMA_WIDE_OP2(name, expression)                          \
  HWY_INLINE Wide name(const Wide& a, const Wide& b) {          \
    Wide y;                                                     \
    GMA_UNROLL                                                  \
    for (size_t i = 0; i < kParts; ++i) y.part[i] = expression; \
    return y;                                                   \
  }
GMA_WIDE_OP1(Exp, hn::Exp(d, a.part[i]))
GMA_WIDE_OP1(Log, hn::Log(d, a.part[i]))
GMA_WIDE_OP2(Add, hn::Add(a.part[i], b.part[i]))
GMA_WIDE_OP2(Sub, hn::Sub(a.part[i], b.part[i]))
GMA_WIDE_OP2(Mul, hn::Mul(a.part[i], b.part[i]))
GMA_WIDE_OP2(Div, hn::Div(a.part[i], b.part[i]))
GMA_WIDE_OP2(Max, hn::Max(a.part[i], b.part[i]))
// a where it is b or more, else 0.
GMA_WIDE_OP2(ZeroBelow, hn::IfThenElseZero(hn::Ge(a.part[i], b.part[i]), a.part[i]))
#undef GMA_WIDE_OP1
#undef GMA_WIDE_OP2

// a * b + c, fused where the target can.
HWY_INLINE Wide MulAdd(const Wide& a, const Wide& b, const Wide& c) {
  Wide y;
  GMA_UNROLL
  for (size_t i = 0; i < kParts; ++i) y.part[i] = hn::MulAdd(a.part[i], b.part[i], c.part[i]);
  return y;
}

HWY_INLINE Wide Broadcast(float x) {
  Wide y;
  GMA_UNROLL
  for (size_t i = 0; i < kParts; ++i) y.part[i] = hn::Set(FloatTag(), x);
  return y;
}

// Any alignment.
HWY_INLINE Wide Load(const float* from) {
  Wide y;
  GMA_UNROLL
  for (size_t i = 0; i < kParts; ++i) y.part[i] = hn::LoadU(FloatTag(), from + i * kNative);
  return y;
}

HWY_INLINE void Store(const Wide& x, float* to) {
  GMA_UNROLL
  for (size_t i = 0; i < kParts; ++i) hn::StoreU(x.part[i], FloatTag(), to + i * kNative);
}

// The first `count` < 16 numbers, zeros behind them. State rows have no padding, and what follows
// them may be another thread's: a masked store that rewrites its neighbours would be a race.
HWY_INLINE Wide LoadFirst(const float* from, size_t count) {
  HWY_ALIGN float buffer[kWide] = {};
  std::memcpy(buffer, from, count * sizeof(float));
  return Load(buffer);
}

HWY_INLINE void StoreFirst(const Wide& x, float* to, size_t count) {
  HWY_ALIGN float buffer[kWide];
  Store(x, buffer);
  std::memcpy(to, buffer, count * sizeof(float));
}

HWY_INLINE float SumOfLanes(const Wide& x) {
  HWY_ALIGN float lane[kWide];
  Store(x, lane);
  for (size_t half = kWide / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

HWY_INLINE float MaxOfLanes(const Wide& x) {
  HWY_ALIGN float lane[kWide];
  Store(x, lane);
  return *std::max_element(lane, lane + kWide);
}

// The merges below put half of the sums over lanes of a and of b into one register.
HWY_INLINE FloatVec MergeHalves(FloatVec a, FloatVec b) {
#if HWY_TARGET == HWY_SCALAR
  return a;  // never called: a register of one lane has no halves
#else
  const FloatTag d;
  return hn::Add(hn::ConcatUpperLower(d, b, a), hn::ConcatLowerUpper(d, b, a));
#endif
}

HWY_INLINE FloatVec MergeBlocks(FloatVec a, FloatVec b) {
  return hn::Add(hn::OddEvenBlocks(b, a), hn::SwapAdjacentBlocks(hn::OddEvenBlocks(a, b)));
}

HWY_INLINE FloatVec MergePairs(FloatVec a, FloatVec b) {
#if HWY_TARGET == HWY_SCALAR
  return a;
#else
  const FloatTag d;
  const hn::RepartitionToWide<hn::RebindToUnsigned<FloatTag>> pair;
  const auto a2 = hn::BitCast(pair, a), b2 = hn::BitCast(pair, b);
  return hn::Add(hn::BitCast(d, hn::OddEven(b2, a2)),
                 hn::Shuffle1032(hn::BitCast(d, hn::OddEven(a2, b2))));
#endif
}

HWY_INLINE FloatVec MergeLanes(FloatVec a, FloatVec b) {
#if HWY_TARGET == HWY_SCALAR
  return a;
#else
  return hn::Add(hn::OddEven(b, a), hn::Shuffle2301(hn::OddEven(a, b)));
#endif
}

// Adds the parts of a vector of 16 lanes until one register is left.
HWY_INLINE FloatVec FoldParts(const float* from) {
  Wide x = Load(from);
  GMA_UNROLL
  for (size_t half = kParts / 2; half > 0; half /= 2) {
    GMA_UNROLL
    for (size_t i = 0; i < half; ++i) x.part[i] = hn::Add(x.part[i], x.part[i + half]);
  }
  return x.part[0];
}

// Lane i of the result is the sum over lanes of vector i * kStep of `partial`, added up as far as
// kStep allows. Depth first: five registers at a time, not sixteen.
template <size_t kStep>
HWY_INLINE FloatVec Merged(const float* partial) {
  if constexpr (kStep == kNative) {
    return FoldParts(partial);
  } else {
    const FloatVec a = Merged<2 * kStep>(partial);
    const FloatVec b = Merged<2 * kStep>(partial + kStep * kWide);
    if constexpr (kStep == 8) return MergeHalves(a, b);
    if constexpr (kStep == 4) return MergeBlocks(a, b);
    if constexpr (kStep == 2) return MergePairs(a, b);
    return MergeLanes(a, b);
  }
}

// sums[i] = SumOfLanes of vector i of partial [16, 16]. Equal bits to sixteen calls of SumOfLanes.
HWY_INLINE void SumsOfLanes(const float* partial, float* sums) {
  GMA_UNROLL
  for (size_t begin = 0; begin < kWide; begin += kNative) {
    hn::StoreU(Merged<1>(partial + begin * kWide), FloatTag(), sums + begin);
  }
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GMA_MODEL_KERNELS_CPU_MIXER_LANES_INL_H_
