// Rows of a memory head's state on their way through a pass (mixer_passes-inl.h), and the update of
// a mean.
#if defined(GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_
#undef GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_
#endif

#include <cstddef>

#include "model/kernels/cpu/mixer_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

constexpr size_t kMaxGroup = 4;  // query heads that share a pass

// The structs below go by value: behind a reference, each store of a vector would have the compiler
// load them again.

// Rows of the state: numbers of row i start at base + i * stride; not padded.
struct Rows {
  float* base;
  size_t stride, count;
};

// mean_i += step_i (content - mean_i) for rows with step_i != 0; no update at all with step null.
struct RowUpdate {
  const float* step;
  const float* content;  // padded
  float* rest;           // compensation, laid out as the rows; or null
};

// Query vectors, or weights, of `heads` query heads.
struct HeadRows {
  float* base;
  size_t stride, heads;
};

// Sixteen numbers of a mean (`count` of them with kTail) take their update; their new values.
template <bool kTail>
HWY_INLINE Wide UpdatedMean(float* mean, float* rest, const float* content, const Wide& step,
                            size_t count) {
  const Wide old = kTail ? LoadFirst(mean, count) : Load(mean);
  const Wide gap = Sub(Load(content), old);
  Wide now;
  if (rest == nullptr) {
    now = MulAdd(step, gap, old);
  } else {
    // docs/MATH.md 7: `rest` is what rounding the mean left out; TwoSum keeps all of it.
    const Wide old_rest = kTail ? LoadFirst(rest, count) : Load(rest);
    const Wide change = MulAdd(step, Sub(gap, old_rest), old_rest);
    now = Add(old, change);
    const Wide kept = Sub(now, old);
    const Wide lost = Add(Sub(old, Sub(now, kept)), Sub(change, kept));
    if constexpr (kTail) {
      StoreFirst(lost, rest, count);
    } else {
      Store(lost, rest);
    }
  }
  if constexpr (kTail) {
    StoreFirst(now, mean, count);
  } else {
    Store(now, mean);
  }
  return now;
}

// A row on its way through a pass.
struct Row {
  float* mean;
  float* rest;           // null without compensation
  const float* content;  // of the update
  Wide step;
};

// Chunk of sixteen channels from `channel` on, updated if kWrites.
template <bool kWrites, bool kTail>
HWY_INLINE Wide Chunk(const Row& row, size_t channel, size_t count) {
  if constexpr (kWrites) {
    return UpdatedMean<kTail>(row.mean + channel,
                              row.rest == nullptr ? nullptr : row.rest + channel,
                              row.content + channel, row.step, count);
  }
  return kTail ? LoadFirst(row.mean + channel, count) : Load(row.mean + channel);
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_
