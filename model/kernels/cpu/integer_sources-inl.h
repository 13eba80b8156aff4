// What stands in a panel of int8 or int4 weights, as vectors of column pairs: each 32-bit lane
// holds one row's weights of columns 2 p and 2 p + 1 in 16 bits (packed_matrix.h has the layout).
#if defined(GMA_MODEL_KERNELS_CPU_INTEGER_SOURCES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_INTEGER_SOURCES_INL_H_
#undef GMA_MODEL_KERNELS_CPU_INTEGER_SOURCES_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_INTEGER_SOURCES_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "model/kernels/cpu/panel_sources-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

using DI = hn::RebindToSigned<DF>;
using VI = hn::Vec<DI>;
constexpr DI di;

// Of rows [s N, s N + N) and the same plus 16, as Pair.
struct IntegerPair {
  VI low, high;
};

// sum + a's lower half * b's lower half + a's upper half * b's upper half, lane by lane.
HWY_INLINE VI AddPairProducts(VI sum, VI a, VI b) {
#if HWY_TARGET == HWY_AVX3_DL
  // In assembly: Highway 1.0 names no target attribute that GCC would take the intrinsic under.
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
  return sum;
#elif HWY_TARGET == HWY_AVX3
  return hn::Add(sum, VI{_mm512_madd_epi16(a.raw, b.raw)});
#elif HWY_TARGET == HWY_AVX2
  return hn::Add(sum, VI{_mm256_madd_epi16(a.raw, b.raw)});
#elif HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
  return hn::Add(sum, VI{_mm_madd_epi16(a.raw, b.raw)});
#elif HWY_TARGET == HWY_NEON && HWY_ARCH_ARM_A64
  const int16x8_t x = vreinterpretq_s16_s32(a.raw), y = vreinterpretq_s16_s32(b.raw);
  const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
  return hn::Add(sum, VI(vpaddq_s32(low, vmull_high_s16(x, y))));
#else
  const auto lower = [](VI x) HWY_ATTR { return hn::ShiftRight<16>(hn::ShiftLeft<16>(x)); };
  const auto upper = [](VI x) HWY_ATTR { return hn::ShiftRight<16>(x); };
  sum = hn::Add(sum, hn::Mul(lower(a), lower(b)));
  return hn::Add(sum, hn::Mul(upper(a), upper(b)));
#endif
}

// Two neighbouring inputs in every lane.
HWY_INLINE VI BroadcastInputs(const int16_t* inputs) {
  int32_t both;
  std::memcpy(&both, inputs, sizeof(both));
  return hn::Set(di, both);
}

struct Int8Pairs {
  explicit Int8Pairs(const uint8_t* panel) : data(reinterpret_cast<const int8_t*>(panel)) {}
  IntegerPair At(int64_t pair, int64_t s) const {
    const int8_t* place = data + (pair * kPanelRows + s * kWidth) * 2;
    return {Widened(place), Widened(place + 2 * kHalf)};
  }
  static VI Widened(const int8_t* place) {
#if HWY_TARGET == HWY_SCALAR
    return hn::Set(di, static_cast<int32_t>(place[1] * 0x10000 + (place[0] & 0xffff)));
#else
    const hn::Repartition<int16_t, DI> d16;
    const hn::Rebind<int8_t, hn::Repartition<int16_t, DI>> d8;
    return hn::BitCast(di, hn::PromoteTo(d16, hn::LoadU(d8, place)));
#endif
  }
  void FetchAhead(int64_t pair) const { hwy::Prefetch(data + pair * kPanelRows * 2 + kAhead); }
  const int8_t* data;
};

// q alone; scale and minimum are applied a group at a time.
struct Int4Pairs {
  explicit Int4Pairs(const uint8_t* panel) : data(panel) {}
  IntegerPair At(int64_t pair, int64_t s) const {
    const auto* place = reinterpret_cast<const uint32_t*>(data + pair / 16 * kGroupBytes) +
                        pair % 16 / 4 * kPanelRows + s * kWidth;
    const int bits = static_cast<int>(pair % 4 * 4);
    return {Nibbles(place, bits), Nibbles(place + kHalf, bits)};
  }
  static VI Nibbles(const uint32_t* words, int bits) {
    const auto shifted = hn::ShiftRightSame(hn::LoadU(du, words), bits);
    return hn::BitCast(di, hn::And(shifted, hn::Set(du, 0x000f000fu)));
  }
  const uint8_t* data;
};

// Scale or minimum (`which` 0 or 1) of the rows of pair s in an int4 group.
HWY_INLINE Pair GroupPair(const uint8_t* group, int64_t which, int64_t s) {
  const hn::Rebind<hwy::float16_t, DF> d16;
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(group + kGroupWordBytes) +
                       which * kPanelRows + s * kWidth;
  return {hn::PromoteTo(df, hn::LoadU(d16, halves)),
          hn::PromoteTo(df, hn::LoadU(d16, halves + kHalf))};
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GMA_MODEL_KERNELS_CPU_INTEGER_SOURCES_INL_H_
