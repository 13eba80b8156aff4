// Products of one panel of int8 or int4 weights with the few tokens whose sums fit in the
// registers: exact sums of 16-bit inputs in 32 bits, which are added as float32 from one block of
// columns to the next.
#if defined(GMA_MODEL_KERNELS_CPU_INTEGER_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_INTEGER_TILES_INL_H_
#undef GMA_MODEL_KERNELS_CPU_INTEGER_TILES_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_INTEGER_TILES_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "model/kernels/cpu/integer_sources-inl.h"
#include "model/kernels/cpu/panel_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

// A block of a panel's columns, and the tokens of one tile. int8: the columns are one exact sum;
// int4: whole groups.
struct IntegerTileArgs {
  const uint8_t* weights;
  int64_t cols;
  const int16_t* x;
  int64_t x_stride;
  const float* x_sums;  // int4
  int64_t sums_stride;
  const uint8_t* fetch;  // prefetched, fetch_step bytes a pair of columns
  int64_t fetch_step;
  bool add;       // to what earlier columns left in totals
  float* totals;  // [C][32]
};

// Adds the products of S pairs of rows, from pair s on, with C tokens for columns 2 begin to 2 end.
template <class Source, int64_t C, int64_t S>
HWY_INLINE void SumPairs(const Source& source, const IntegerTileArgs& args, int64_t begin,
                         int64_t end, int64_t s, IntegerPair (&sums)[S][C]) {
  const auto pair = [&](int64_t p) HWY_ATTR {
    hwy::Prefetch(args.fetch + p * args.fetch_step);
    IntegerPair weights[S];
    for (int64_t i = 0; i < S; ++i) weights[i] = source.At(p, s + i);
    for (int64_t c = 0; c < C; ++c) {
      const VI x = BroadcastInputs(args.x + c * args.x_stride + 2 * p);
      for (int64_t i = 0; i < S; ++i) {
        sums[i][c].low = AddPairProducts(sums[i][c].low, weights[i].low, x);
        sums[i][c].high = AddPairProducts(sums[i][c].high, weights[i].high, x);
      }
    }
  };
  int64_t p = begin;
  for (; p + 4 <= end; p += 4) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; ++i) pair(p + i);
  }
  for (; p < end; ++p) pair(p);
}

template <int64_t C, int64_t S>
HWY_INLINE void SetZero(IntegerPair (&sums)[S][C]) {
  for (auto& pairs : sums) std::fill(pairs, pairs + C, IntegerPair{hn::Zero(di), hn::Zero(di)});
}

struct Int8Tile {
  template <int64_t C, int64_t S>
  static void Run(const IntegerTileArgs& args, int64_t s) {
    IntegerPair sums[S][C];
    SetZero<C, S>(sums);
    SumPairs<Int8Pairs, C, S>(Int8Pairs(args.weights), args, 0, (args.cols + 1) / 2, s, sums);
    for (int64_t i = 0; i < S; ++i) {
      for (int64_t c = 0; c < C; ++c) {
        float* place = args.totals + c * kPanelRows + (s + i) * kWidth;
        Pair total = {hn::ConvertTo(df, sums[i][c].low), hn::ConvertTo(df, sums[i][c].high)};
        if (args.add) {
          const Pair before = LoadPair(place);
          total = {hn::Add(before.low, total.low), hn::Add(before.high, total.high)};
        }
        StorePair(total, place);
      }
    }
  }
};

struct Int4Tile {
  template <int64_t C, int64_t S>
  static void Run(const IntegerTileArgs& args, int64_t s) {
    const Int4Pairs source(args.weights);
    for (int64_t g = 0; g < args.cols / kGroupColumns; ++g) {
      IntegerPair sums[S][C];
      SetZero<C, S>(sums);
      SumPairs<Int4Pairs, C, S>(source, args, g * kGroupColumns / 2, (g + 1) * kGroupColumns / 2, s,
                                sums);
      for (int64_t i = 0; i < S; ++i) {
        const Pair scale = GroupPair(args.weights + g * kGroupBytes, 0, s + i);
        const Pair minimum = GroupPair(args.weights + g * kGroupBytes, 1, s + i);
        for (int64_t c = 0; c < C; ++c) {
          float* place = args.totals + c * kPanelRows + (s + i) * kWidth;
          const VF x_sum = hn::Set(df, args.x_sums[c * args.sums_stride + g]);
          Pair total = {hn::Zero(df), hn::Zero(df)};
          if (g > 0 || args.add) total = LoadPair(place);
          total.low = hn::MulAdd(scale.low, hn::ConvertTo(df, sums[i][c].low), total.low);
          total.high = hn::MulAdd(scale.high, hn::ConvertTo(df, sums[i][c].high), total.high);
          total.low = hn::MulAdd(minimum.low, x_sum, total.low);
          total.high = hn::MulAdd(minimum.high, x_sum, total.high);
          StorePair(total, place);
        }
      }
    }
  }
};

template <class Tile, int64_t C>
void RunIntegerTile(const IntegerTileArgs& args) {
  constexpr int64_t kAtOnce = PairsAtOnce(C);
  for (int64_t s = 0; s < kPairs; s += kAtOnce) Tile::template Run<C, kAtOnce>(args, s);
}

using IntegerTileFunction = void (*)(const IntegerTileArgs&);

template <class Tile, int64_t... I>
constexpr std::array<IntegerTileFunction, sizeof...(I)> MakeIntegerTiles(
    std::integer_sequence<int64_t, I...>) {
  return {RunIntegerTile<Tile, I + 1>...};
}

template <class Tile>
void CallIntegerTile(const IntegerTileArgs& args, int64_t columns) {
  static constexpr auto kTiles =
      MakeIntegerTiles<Tile>(std::make_integer_sequence<int64_t, kMaxColumns>());
  kTiles[static_cast<size_t>(columns - 1)](args);
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GMA_MODEL_KERNELS_CPU_INTEGER_TILES_INL_H_
