// The two passes over a memory head's rows, each element touched once a token: sums of products
// with the queries, and the weighted sum; either may update the slots' means on the way.
#if defined(GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_
#undef GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "model/kernels/cpu/mixer_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

constexpr size_t kMaxGroup = 4;  // query heads that share a pass

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

template <bool kTail>
HWY_INLINE Wide Updated(bool writes, float* mean, float* rest, const float* content,
                        const Wide& step, size_t count) {
  if (writes) return UpdatedMean<kTail>(mean, rest, content, step, count);
  return kTail ? LoadFirst(mean, count) : Load(mean);
}

// Products of one row with kHeads queries, summed into 16 lanes each; head j's go to
// partial + j * 256.
template <size_t kHeads>
HWY_INLINE void RowProducts(float* row, float* rest, const float* content, bool writes, float step,
                            size_t width, const HeadRows& query, float* partial) {
  const Wide wide_step = Broadcast(step);
  Wide sum[kHeads];
  GMA_UNROLL
  for (size_t j = 0; j < kHeads; ++j) sum[j] = Broadcast(0);
  size_t i = 0;
  for (; i + kWide <= width; i += kWide) {
    const Wide x = Updated<false>(writes, row + i, rest == nullptr ? nullptr : rest + i,
                                  content + i, wide_step, kWide);
    GMA_UNROLL
    for (size_t j = 0; j < kHeads; ++j) {
      sum[j] = MulAdd(x, Load(query.base + j * query.stride + i), sum[j]);
    }
  }
  if (i < width) {
    const Wide x = Updated<true>(writes, row + i, rest == nullptr ? nullptr : rest + i, content + i,
                                 wide_step, width - i);
    GMA_UNROLL
    for (size_t j = 0; j < kHeads; ++j) {
      sum[j] = MulAdd(x, Load(query.base + j * query.stride + i), sum[j]);
    }
  }
  GMA_UNROLL
  for (size_t j = 0; j < kHeads; ++j) Store(sum[j], partial + j * kWide * kWide);
}

// dots_j[i] = <row i, query j>; dots of rows behind the last, up to a multiple of 16, are 0.
template <size_t kHeads>
void DotRows(const Rows& rows, const RowUpdate& update, size_t width, const HeadRows& query,
             float* partial, float* dots, size_t dots_stride) {
  for (size_t begin = 0; begin < rows.count; begin += kWide) {
    const size_t count = std::min(kWide, rows.count - begin);
    for (size_t i = 0; i < count; ++i) {
      const size_t row = begin + i;
      const float step = update.step == nullptr ? 0.0f : update.step[row];
      float* rest = update.rest == nullptr ? nullptr : update.rest + row * rows.stride;
      RowProducts<kHeads>(rows.base + row * rows.stride, rest, update.content, step != 0, step,
                          width, query, partial + i * kWide);
    }
    for (size_t i = count; i < kWide; ++i) {
      for (size_t j = 0; j < kHeads; ++j) Store(Broadcast(0), partial + (j * kWide + i) * kWide);
    }
    for (size_t j = 0; j < kHeads; ++j) {
      SumsOfLanes(partial + j * kWide * kWide, dots + j * dots_stride + begin);
    }
  }
}

// Adds row's chunks, times each head's weight, to `sum` [kHeads, kChunks].
template <size_t kHeads, size_t kChunks, bool kTail>
HWY_INLINE void AddRow(float* row, float* rest, const float* content, bool writes, float step,
                       size_t tail, const float* weight, size_t weight_stride, Wide* sum) {
  const Wide wide_step = Broadcast(step);
  Wide w[kHeads];
  GMA_UNROLL
  for (size_t j = 0; j < kHeads; ++j) w[j] = Broadcast(weight[j * weight_stride]);
  GMA_UNROLL
  for (size_t c = 0; c < kChunks; ++c) {
    const Wide x =
        Updated<kTail>(writes, row + c * kWide, rest == nullptr ? nullptr : rest + c * kWide,
                       content + c * kWide, wide_step, tail);
    GMA_UNROLL
    for (size_t j = 0; j < kHeads; ++j) {
      sum[j * kChunks + c] = MulAdd(w[j], x, sum[j * kChunks + c]);
    }
  }
}

// Channels from `channel` on, kChunks * 16 of them (`tail` with kTail), of the sum over slots and
// window entries of weight * row.
template <size_t kHeads, size_t kChunks, bool kTail>
void SumChunks(const Rows& slots, const RowUpdate& update, const Rows& near, size_t channel,
               size_t tail, const HeadRows& weight, size_t near_begin, const HeadRows& out) {
  Wide sum[kHeads * kChunks];
  GMA_UNROLL
  for (size_t i = 0; i < kHeads * kChunks; ++i) sum[i] = Broadcast(0);
  for (size_t i = 0; i < slots.count; ++i) {
    const size_t begin = i * slots.stride + channel;
    const float step = update.step == nullptr ? 0.0f : update.step[i];
    float* rest = update.rest == nullptr ? nullptr : update.rest + begin;
    const float* content = update.content + channel;
    if (step != 0) {
      AddRow<kHeads, kChunks, kTail>(slots.base + begin, rest, content, true, step, tail,
                                     weight.base + i, weight.stride, sum);
    } else {
      AddRow<kHeads, kChunks, kTail>(slots.base + begin, rest, content, false, 0, tail,
                                     weight.base + i, weight.stride, sum);
    }
  }
  for (size_t i = 0; i < near.count; ++i) {
    AddRow<kHeads, kChunks, kTail>(near.base + i * near.stride + channel, nullptr, update.content,
                                   false, 0, tail, weight.base + near_begin + i, weight.stride,
                                   sum);
  }
  GMA_UNROLL
  for (size_t j = 0; j < kHeads; ++j) {
    GMA_UNROLL
    for (size_t c = 0; c < kChunks; ++c) {
      Store(sum[j * kChunks + c], out.base + j * out.stride + channel + c * kWide);
    }
  }
}

// Chunks of 16 channels whose sums, kHeads of each, stay in registers.
template <size_t kHeads>
constexpr size_t MaxChunks() {
  if (kNative == 16) return 4;
  const size_t fit = 12 / (kParts * kHeads);
  return fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

// out_j = sum over slots and window entries of weight_j * row, without normalisation.
// Weights of window entries start at weight + near_begin.
template <size_t kHeads>
void SumRows(const Rows& slots, const RowUpdate& update, const Rows& near, size_t width,
             const HeadRows& weight, size_t near_begin, const HeadRows& out) {
  constexpr size_t kMax = MaxChunks<kHeads>();
  size_t channel = 0;
  for (; channel + kMax * kWide <= width; channel += kMax * kWide) {
    SumChunks<kHeads, kMax, false>(slots, update, near, channel, 0, weight, near_begin, out);
  }
  for (; channel + kWide <= width; channel += kWide) {
    SumChunks<kHeads, 1, false>(slots, update, near, channel, 0, weight, near_begin, out);
  }
  if (channel < width) {
    SumChunks<kHeads, 1, true>(slots, update, near, channel, width - channel, weight, near_begin,
                               out);
  }
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GMA_MODEL_KERNELS_CPU_MIXER_ROWS_INL_H_
