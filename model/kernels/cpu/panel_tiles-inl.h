// Products of one panel of float32 or bfloat16 weights with the few tokens whose sums fit in the
// registers.
#if defined(GMA_MODEL_KERNELS_CPU_PANEL_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_PANEL_TILES_INL_H_
#undef GMA_MODEL_KERNELS_CPU_PANEL_TILES_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_PANEL_TILES_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "model/kernels/cpu/panel_sources-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

constexpr int64_t kMaxColumns = kWidth >= 16 ? 12 : 6;  // tokens of a tile; two sums each

// One panel, or a block of its columns, and the tokens of one tile.
struct TileArgs {
  const uint8_t* weights;  // of the source
  int64_t cols;
  const float* x;
  int64_t x_stride;
  bool add;       // to what earlier columns left in totals
  float* totals;  // [C][32]
};

// Adds products of S pairs of rows, from pair s on, with C tokens.
template <class Source, int64_t C, int64_t S>
HWY_INLINE void SumColumns(const Source& source, const TileArgs& args, int64_t s,
                           Pair (&sums)[S][C]) {
  const auto column = [&](int64_t k) HWY_ATTR {
    source.FetchAhead(k);
    Pair weights[S];
    for (int64_t i = 0; i < S; ++i) weights[i] = source.At(k, s + i);
    for (int64_t c = 0; c < C; ++c) {
      const VF x = hn::Set(df, args.x[c * args.x_stride + k]);
      for (int64_t i = 0; i < S; ++i) {
        sums[i][c].low = hn::MulAdd(weights[i].low, x, sums[i][c].low);
        sums[i][c].high = hn::MulAdd(weights[i].high, x, sums[i][c].high);
      }
    }
  };
  int64_t k = 0;
  for (; k + 8 <= args.cols; k += 8) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < 8; ++i) column(k + i);
  }
  for (; k < args.cols; ++k) column(k);
}

template <class Source, int64_t C, int64_t S>
void TilePairs(const TileArgs& args, int64_t s) {
  const Pair zero = {hn::Zero(df), hn::Zero(df)};
  const auto place = [&](int64_t i, int64_t c)
                         HWY_ATTR { return args.totals + c * kPanelRows + (s + i) * kWidth; };
  Pair sums[S][C];
  for (int64_t i = 0; i < S; ++i) {
    for (int64_t c = 0; c < C; ++c) sums[i][c] = args.add ? LoadPair(place(i, c)) : zero;
  }
  SumColumns<Source, C, S>(Source(args.weights), args, s, sums);
  for (int64_t i = 0; i < S; ++i) {
    for (int64_t c = 0; c < C; ++c) StorePair(sums[i][c], place(i, c));
  }
}

// As many pairs at once as the registers hold beside C tokens.
constexpr int64_t PairsAtOnce(int64_t columns) {
  int64_t pairs = 1;
  while (2 * pairs <= kPairs && 2 * pairs * columns <= kMaxColumns) pairs *= 2;
  return pairs;
}

template <class Source, int64_t C>
void Tile(const TileArgs& args) {
  constexpr int64_t kAtOnce = PairsAtOnce(C);
  for (int64_t s = 0; s < kPairs; s += kAtOnce) TilePairs<Source, C, kAtOnce>(args, s);
}

using TileFunction = void (*)(const TileArgs&);

template <class Source, int64_t... I>
constexpr std::array<TileFunction, sizeof...(I)> MakeTiles(std::integer_sequence<int64_t, I...>) {
  return {Tile<Source, I + 1>...};
}

template <class Source>
void CallTile(const TileArgs& args, int64_t columns) {
  static constexpr auto kTiles =
      MakeTiles<Source>(std::make_integer_sequence<int64_t, kMaxColumns>());
  kTiles[static_cast<size_t>(columns - 1)](args);
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GMA_MODEL_KERNELS_CPU_PANEL_TILES_INL_H_
