// What stands in a panel of float32 or bfloat16 weights, as vectors of float32 (packed_matrix.h has
// the layout).
#if defined(GMA_MODEL_KERNELS_CPU_PANEL_SOURCES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_PANEL_SOURCES_INL_H_
#undef GMA_MODEL_KERNELS_CPU_PANEL_SOURCES_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_PANEL_SOURCES_INL_H_
#endif

#include <cstdint>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "model/kernels/cpu/packed_matrix.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A panel's 32 rows are taken as pairs of vectors: rows [s N, s N + N) and the same plus 16.
constexpr int64_t kHalf = kPanelRows / 2;
using DF = hn::CappedTag<float, kHalf>;
using VF = hn::Vec<DF>;
using DU = hn::RebindToUnsigned<DF>;
constexpr DF df;
constexpr DU du;
constexpr int64_t kWidth = hn::MaxLanes(df);  // N
constexpr int64_t kPairs = kHalf / kWidth;
constexpr int64_t kAhead = 4096;  // bytes, of software prefetch

struct Pair {
  VF low, high;
};

HWY_INLINE Pair LoadPair(const float* place) {
  return {hn::LoadU(df, place), hn::LoadU(df, place + kHalf)};
}

HWY_INLINE void StorePair(const Pair& pair, float* place) {
  hn::StoreU(pair.low, df, place);
  hn::StoreU(pair.high, df, place + kHalf);
}

// Sources of weights: what stands in a panel at column k for the pair s, as float32.
struct Float32Source {
  explicit Float32Source(const uint8_t* data) : panel(reinterpret_cast<const float*>(data)) {}
  Pair At(int64_t k, int64_t s) const {
    const float* place = panel + k * kPanelRows + s * kWidth;
    return {hn::LoadU(df, place), hn::LoadU(df, place + kHalf)};
  }
  void FetchAhead(int64_t k) const {
    const auto* place = reinterpret_cast<const uint8_t*>(panel + k * kPanelRows) + kAhead;
    hwy::Prefetch(place);
    hwy::Prefetch(place + 64);
  }
  const float* panel;
};

struct BFloat16Source {
  explicit BFloat16Source(const uint8_t* data) : panel(reinterpret_cast<const uint32_t*>(data)) {}
  Pair At(int64_t k, int64_t s) const {
    const auto both = hn::LoadU(du, panel + k * kHalf + s * kWidth);
    return {hn::BitCast(df, hn::ShiftLeft<16>(both)),
            hn::BitCast(df, hn::And(both, hn::Set(du, 0xffff0000u)))};
  }
  void FetchAhead(int64_t k) const {
    hwy::Prefetch(reinterpret_cast<const uint8_t*>(panel + k * kHalf) + kAhead);
  }
  const uint32_t* panel;
};

// Columns of a panel that Widen has made float32, in the first-level cache.
struct BlockSource {
  explicit BlockSource(const uint8_t* data) : block(data) {}
  Pair At(int64_t k, int64_t s) const { return block.At(k, s); }
  void FetchAhead(int64_t) const {}
  Float32Source block;
};

// Columns [begin, begin + count) of a panel as float32 [count][32].
template <class Source>
void Widen(const uint8_t* panel, int64_t begin, int64_t count, float* block) {
  const Source source(panel);
  for (int64_t k = 0; k < count; ++k) {
    source.FetchAhead(begin + k);
    for (int64_t s = 0; s < kPairs; ++s) {
      StorePair(source.At(begin + k, s), block + k * kPanelRows + s * kWidth);
    }
  }
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GMA_MODEL_KERNELS_CPU_PANEL_SOURCES_INL_H_
