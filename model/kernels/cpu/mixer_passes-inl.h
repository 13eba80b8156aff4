// The two passes over a memory head's rows, each element touched once a token: sums of products
// with the queries, and the weighted sum; either may update the slots' means on the way.
#if defined(GMA_MODEL_KERNELS_CPU_MIXER_PASSES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_MIXER_PASSES_INL_H_
#undef GMA_MODEL_KERNELS_CPU_MIXER_PASSES_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_MIXER_PASSES_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "model/kernels/cpu/mixer_lanes-inl.h"
#include "model/kernels/cpu/mixer_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

// sum_j += kChunks chunks of the row times those of query j, lane by lane.
template <size_t kHeads, size_t kChunks, bool kWrites, bool kTail>
HWY_INLINE void AddProducts(const Row& row, size_t channel, size_t count, HeadRows query,
                            Wide* sum) {
  GMA_UNROLL
  for (size_t c = 0; c < kChunks; ++c) {
    const size_t i = channel + c * kWide;
    const Wide x = Chunk<kWrites, kTail>(row, i, count);
    GMA_UNROLL
    for (size_t j = 0; j < kHeads; ++j) {
      sum[j] = MulAdd(x, Load(query.base + j * query.stride + i), sum[j]);
    }
  }
}

// Products of one row with kHeads queries, summed into 16 lanes each; head j's go to
// partial + j * 256.
template <size_t kHeads, bool kWrites>
HWY_INLINE void RowProducts(const Row& row, size_t width, HeadRows query, float* partial) {
  Wide sum[kHeads];
  GMA_UNROLL
  for (size_t j = 0; j < kHeads; ++j) sum[j] = Broadcast(0);
  size_t i = 0;
  for (; i + 4 * kWide <= width; i += 4 * kWide) {
    AddProducts<kHeads, 4, kWrites, false>(row, i, 0, query, sum);
  }
  for (; i + kWide <= width; i += kWide) {
    AddProducts<kHeads, 1, kWrites, false>(row, i, 0, query, sum);
  }
  if (i < width) AddProducts<kHeads, 1, kWrites, true>(row, i, width - i, query, sum);
  GMA_UNROLL
  for (size_t j = 0; j < kHeads; ++j) Store(sum[j], partial + j * kWide * kWide);
}

// dots_j[i] = <row i, query j>; dots of rows behind the last, up to a multiple of 16, are 0.
template <size_t kHeads>
void DotRows(Rows rows, RowUpdate update, size_t width, HeadRows query, float* partial, float* dots,
             size_t dots_stride) {
  for (size_t begin = 0; begin < rows.count; begin += kWide) {
    const size_t count = std::min(kWide, rows.count - begin);
    for (size_t i = 0; i < count; ++i) {
      const size_t row = begin + i;
      float* mean = rows.base + row * rows.stride;
      if (update.step != nullptr && update.step[row] != 0) {
        float* rest = update.rest == nullptr ? nullptr : update.rest + row * rows.stride;
        RowProducts<kHeads, true>({mean, rest, update.content, Broadcast(update.step[row])}, width,
                                  query, partial + i * kWide);
      } else {
        RowProducts<kHeads, false>({mean, nullptr, nullptr, {}}, width, query, partial + i * kWide);
      }
    }
    for (size_t i = count; i < kWide; ++i) {
      for (size_t j = 0; j < kHeads; ++j) Store(Broadcast(0), partial + (j * kWide + i) * kWide);
    }
    for (size_t j = 0; j < kHeads; ++j) {
      SumsOfLanes(partial + j * kWide * kWide, dots + j * dots_stride + begin);
    }
  }
}

// sum [kHeads, kChunks] += the row's chunks times each head's weight.
template <size_t kHeads, size_t kChunks, bool kWrites, bool kTail>
HWY_INLINE void AddRow(const Row& row, size_t channel, size_t tail, const float* weight,
                       size_t weight_stride, Wide* sum) {
  Wide w[kHeads];
  GMA_UNROLL
  for (size_t j = 0; j < kHeads; ++j) w[j] = Broadcast(weight[j * weight_stride]);
  GMA_UNROLL
  for (size_t c = 0; c < kChunks; ++c) {
    const Wide x = Chunk<kWrites, kTail>(row, channel + c * kWide, tail);
    GMA_UNROLL
    for (size_t j = 0; j < kHeads; ++j) {
      sum[j * kChunks + c] = MulAdd(w[j], x, sum[j * kChunks + c]);
    }
  }
}

// Channels from `channel` on, kChunks * 16 of them (`tail` with kTail), of the sum over slots and
// window entries of weight * row.
template <size_t kHeads, size_t kChunks, bool kTail>
void SumChunks(Rows slots, RowUpdate update, Rows near, size_t channel, size_t tail,
               HeadRows weight, size_t near_begin, HeadRows out) {
  Wide sum[kHeads * kChunks];
  GMA_UNROLL
  for (size_t i = 0; i < kHeads * kChunks; ++i) sum[i] = Broadcast(0);
  for (size_t i = 0; i < slots.count; ++i) {
    float* mean = slots.base + i * slots.stride;
    if (update.step != nullptr && update.step[i] != 0) {
      float* rest = update.rest == nullptr ? nullptr : update.rest + i * slots.stride;
      AddRow<kHeads, kChunks, true, kTail>({mean, rest, update.content, Broadcast(update.step[i])},
                                           channel, tail, weight.base + i, weight.stride, sum);
    } else {
      AddRow<kHeads, kChunks, false, kTail>({mean, nullptr, nullptr, {}}, channel, tail,
                                            weight.base + i, weight.stride, sum);
    }
  }
  for (size_t i = 0; i < near.count; ++i) {
    AddRow<kHeads, kChunks, false, kTail>({near.base + i * near.stride, nullptr, nullptr, {}},
                                          channel, tail, weight.base + near_begin + i,
                                          weight.stride, sum);
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
void SumRows(Rows slots, RowUpdate update, Rows near, size_t width, HeadRows weight,
             size_t near_begin, HeadRows out) {
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

#endif  // GMA_MODEL_KERNELS_CPU_MIXER_PASSES_INL_H_
