#include "model/kernels/cpu/panel_product.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"

#ifndef GMA_PRODUCT_BLOCKS
#define GMA_PRODUCT_BLOCKS
namespace gma::cpu {
namespace {
constexpr int64_t kBlockColumns = 128;  // of a widened block, which is 16 KiB
constexpr int64_t kMaxTokens = 96;      // that share one
}  // namespace
}  // namespace gma::cpu
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/panel_product.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// A panel's 32 rows are taken as pairs of vectors: rows [s N, s N + N) and the same plus 16.
constexpr int64_t kHalf = kPanelRows / 2;
using DF = hn::CappedTag<float, kHalf>;
using VF = hn::Vec<DF>;
using DU = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;
constexpr DF df;
constexpr DU du;
constexpr DI di;
constexpr int64_t kWidth = hn::MaxLanes(df);  // N
constexpr int64_t kPairs = kHalf / kWidth;
constexpr int64_t kMaxColumns = kWidth >= 16 ? 12 : 6;   // tokens of a tile; two sums each
constexpr int64_t kAhead = 2048;                         // bytes, of software prefetch
constexpr int64_t kTilesInPlace = kWidth >= 16 ? 4 : 2;  // more than these share a widened block

struct Pair {
  VF low, high;
};

// Sources of weights: what stands in a panel at column k for the pair s, as float32.
struct Float32Source {
  static constexpr bool kGrouped = false;
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
  static constexpr bool kGrouped = false;
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

struct Int8Source {
  static constexpr bool kGrouped = false;
  explicit Int8Source(const uint8_t* data) : panel(reinterpret_cast<const int8_t*>(data)) {}
  Pair At(int64_t k, int64_t s) const {
    const hn::Rebind<int8_t, DF> d8;
    const int8_t* place = panel + k * kPanelRows + s * kWidth;
    return {hn::ConvertTo(df, hn::PromoteTo(di, hn::LoadU(d8, place))),
            hn::ConvertTo(df, hn::PromoteTo(di, hn::LoadU(d8, place + kHalf)))};
  }
  void FetchAhead(int64_t k) const {
    if (k % 2 == 0) hwy::Prefetch(panel + k * kPanelRows + kAhead);
  }
  const int8_t* panel;
};

// q alone; scale and minimum are applied a group at a time.
struct Int4Source {
  static constexpr bool kGrouped = true;
  explicit Int4Source(const uint8_t* data) : panel(data) {}
  Pair At(int64_t k, int64_t s) const {
    const auto* place = reinterpret_cast<const uint32_t*>(panel + k / kGroupColumns * kGroupBytes) +
                        k % kGroupColumns / 8 * kPanelRows + s * kWidth;
    const int bits = static_cast<int>(k % 8 * 4);
    return {Nibble(hn::LoadU(du, place), bits), Nibble(hn::LoadU(du, place + kHalf), bits)};
  }
  static VF Nibble(hn::Vec<DU> words, int bits) {
    const auto q = hn::And(hn::ShiftRightSame(words, bits), hn::Set(du, 15));
    return hn::ConvertTo(df, hn::BitCast(di, q));
  }
  void FetchAhead(int64_t k) const {
    if (k % 4 == 0) hwy::Prefetch(panel + k / 4 * 80 + kAhead);
  }
  const uint8_t* panel;
};

// Columns of a panel that Widen has made float32, in the first-level cache.
template <bool grouped>
struct BlockSource {
  static constexpr bool kGrouped = grouped;
  explicit BlockSource(const uint8_t* data) : block(data) {}
  Pair At(int64_t k, int64_t s) const { return block.At(k, s); }
  void FetchAhead(int64_t) const {}
  Float32Source block;
};

// One panel, or a block of its columns, and the tokens of one tile.
struct TileArgs {
  const uint8_t* weights;  // of the source
  const uint8_t* groups;   // int4: the groups in the panel, for their scales and minima
  int64_t cols;            // int4: whole groups
  const float* x;
  int64_t x_stride;
  const float* x_sums;
  int64_t sums_stride;
  bool add;       // to what earlier columns left in totals
  float* totals;  // [C][32]
};

// Scale or minimum (`which` 0 or 1) of the rows of pair s in an int4 group.
Pair GroupPair(const uint8_t* group, int64_t which, int64_t s) {
  const hn::Rebind<hwy::float16_t, DF> d16;
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(group + kGroupWordBytes) +
                       which * kPanelRows + s * kWidth;
  return {hn::PromoteTo(df, hn::LoadU(d16, halves)),
          hn::PromoteTo(df, hn::LoadU(d16, halves + kHalf))};
}

// Adds products of S pairs of rows, from pair s on, with C tokens, for `count` columns from
// `begin`.
template <class Source, int64_t C, int64_t S>
HWY_INLINE void SumColumns(const Source& source, const TileArgs& args, int64_t begin, int64_t count,
                           int64_t s, Pair (&sums)[S][C]) {
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
  int64_t k = begin;
  for (; k + 8 <= begin + count; k += 8) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < 8; ++i) column(k + i);
  }
  for (; k < begin + count; ++k) column(k);
}

Pair LoadPair(const float* place) { return {hn::LoadU(df, place), hn::LoadU(df, place + kHalf)}; }

void StorePair(const Pair& pair, float* place) {
  hn::StoreU(pair.low, df, place);
  hn::StoreU(pair.high, df, place + kHalf);
}

template <class Source, int64_t C, int64_t S>
void TilePairs(const TileArgs& args, int64_t s) {
  const Source source(args.weights);
  const Pair zero = {hn::Zero(df), hn::Zero(df)};
  const auto place = [&](int64_t i, int64_t c)
                         HWY_ATTR { return args.totals + c * kPanelRows + (s + i) * kWidth; };
  Pair sums[S][C];
  if constexpr (!Source::kGrouped) {
    for (int64_t i = 0; i < S; ++i) {
      for (int64_t c = 0; c < C; ++c) sums[i][c] = args.add ? LoadPair(place(i, c)) : zero;
    }
    SumColumns<Source, C, S>(source, args, 0, args.cols, s, sums);
    for (int64_t i = 0; i < S; ++i) {
      for (int64_t c = 0; c < C; ++c) StorePair(sums[i][c], place(i, c));
    }
    return;
  }
  for (int64_t g = 0; g < args.cols / kGroupColumns; ++g) {
    for (auto& pairs : sums) std::fill(pairs, pairs + C, zero);
    SumColumns<Source, C, S>(source, args, g * kGroupColumns, kGroupColumns, s, sums);
    for (int64_t i = 0; i < S; ++i) {
      const Pair scale = GroupPair(args.groups + g * kGroupBytes, 0, s + i);
      const Pair minimum = GroupPair(args.groups + g * kGroupBytes, 1, s + i);
      for (int64_t c = 0; c < C; ++c) {
        const VF x_sum = hn::Set(df, args.x_sums[c * args.sums_stride + g]);
        Pair total = g == 0 && !args.add ? zero : LoadPair(place(i, c));
        total.low = hn::MulAdd(scale.low, sums[i][c].low, total.low);
        total.high = hn::MulAdd(scale.high, sums[i][c].high, total.high);
        total.low = hn::MulAdd(minimum.low, x_sum, total.low);
        total.high = hn::MulAdd(minimum.high, x_sum, total.high);
        StorePair(total, place(i, c));
      }
    }
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

// Tokens are cut into tiles of nearly equal size.
struct Tiles {
  int64_t tokens, count;
  explicit Tiles(int64_t all) : tokens(all), count((all + kMaxColumns - 1) / kMaxColumns) {}
  int64_t begin(int64_t tile) const { return tokens * tile / count; }
};

// The products of one panel with up to kMaxTokens tokens.
class PanelSums {
 public:
  PanelSums(const ProductArgs& args, int64_t first, int64_t tokens, float* block)
      : args_(args),
        format_(args.weights->format()),
        cols_(format_ == WeightFormat::kInt4 ? PaddedColumns(args.weights->cols())
                                             : args.weights->cols()),
        first_(first),
        tiles_(tokens),
        block_(block) {}

  // totals [tokens][32].
  void Run(int64_t panel, float* totals) const {
    const uint8_t* weights = args_.weights->panel(panel);
    if (tiles_.count <= kTilesInPlace) {
      RunColumns(weights, weights, 0, cols_, /*widened=*/false, totals);
    } else {
      for (int64_t begin = 0; begin < cols_; begin += kBlockColumns) {
        RunBlock(weights, begin, std::min(kBlockColumns, cols_ - begin), totals);
      }
    }
    if (format_ == WeightFormat::kInt8) ScaleRows(weights, totals);
  }

 private:
  // Once for all tiles: the weights are widened to the block, which stays in the nearest cache.
  void RunBlock(const uint8_t* panel, int64_t begin, int64_t count, float* totals) const {
    const uint8_t* groups = panel + begin / kGroupColumns * kGroupBytes;
    if (format_ == WeightFormat::kFloat32) {
      const uint8_t* place = panel + begin * kPanelRows * static_cast<int64_t>(sizeof(float));
      return RunColumns(place, groups, begin, count, /*widened=*/true, totals);
    }
    if (format_ == WeightFormat::kBFloat16) Widen<BFloat16Source>(panel, begin, count, block_);
    if (format_ == WeightFormat::kInt8) Widen<Int8Source>(panel, begin, count, block_);
    if (format_ == WeightFormat::kInt4) Widen<Int4Source>(panel, begin, count, block_);
    RunColumns(reinterpret_cast<const uint8_t*>(block_), groups, begin, count, /*widened=*/true,
               totals);
  }

  void RunColumns(const uint8_t* weights, const uint8_t* groups, int64_t begin, int64_t count,
                  bool widened, float* totals) const {
    const int64_t sums_stride = args_.x_stride / kGroupColumns;
    for (int64_t tile = 0; tile < tiles_.count; ++tile) {
      const int64_t token = first_ + tiles_.begin(tile);
      RunTile({.weights = weights,
               .groups = groups,
               .cols = count,
               .x = args_.x + token * args_.x_stride + begin,
               .x_stride = args_.x_stride,
               .x_sums = format_ == WeightFormat::kInt4
                             ? args_.x_sums + token * sums_stride + begin / kGroupColumns
                             : nullptr,
               .sums_stride = sums_stride,
               .add = begin > 0,
               .totals = totals + tiles_.begin(tile) * kPanelRows},
              tiles_.begin(tile + 1) - tiles_.begin(tile), widened);
    }
  }

  void RunTile(const TileArgs& tile, int64_t columns, bool widened) const {
    switch (format_) {
      case WeightFormat::kFloat32:
        return widened ? CallTile<BlockSource<false>>(tile, columns)
                       : CallTile<Float32Source>(tile, columns);
      case WeightFormat::kBFloat16:
        return widened ? CallTile<BlockSource<false>>(tile, columns)
                       : CallTile<BFloat16Source>(tile, columns);
      case WeightFormat::kInt8:
        return widened ? CallTile<BlockSource<false>>(tile, columns)
                       : CallTile<Int8Source>(tile, columns);
      case WeightFormat::kInt4:
        return widened ? CallTile<BlockSource<true>>(tile, columns)
                       : CallTile<Int4Source>(tile, columns);
    }
  }

  void ScaleRows(const uint8_t* panel, float* totals) const {
    const float* scales = reinterpret_cast<const float*>(panel + cols_ * kPanelRows);
    for (int64_t i = 0; i < tiles_.tokens * kPanelRows; i += kWidth) {
      const VF scale = hn::LoadU(df, scales + i % kPanelRows);
      hn::StoreU(hn::Mul(hn::LoadU(df, totals + i), scale), df, totals + i);
    }
  }

  const ProductArgs& args_;
  const WeightFormat format_;
  const int64_t cols_, first_;
  const Tiles tiles_;
  float* const block_;  // [kBlockColumns][32]
};

// gate <- silu(gate) * up, [count].
void SwiGlu(const float* up, int64_t count, float* gate) {
  for (int64_t i = 0; i < count; i += kWidth) {
    const VF g = hn::LoadU(df, gate + i);
    const VF divisor = hn::Add(hn::Set(df, 1.0f), hn::Exp(df, hn::Neg(g)));
    hn::StoreU(hn::Div(hn::Mul(g, hn::LoadU(df, up + i)), divisor), df, gate + i);
  }
}

void Put(ProductUse use, const float* totals, int64_t count, float* y) {
  if (use != ProductUse::kAdd) {
    std::memcpy(y, totals, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) y[i] += totals[i];
}

void PanelProductImpl(const ProductArgs& args, int64_t begin, int64_t end, uint8_t* scratch) {
  const PackedMatrix& weights = *args.weights;
  const int64_t step = args.use == ProductUse::kSwiGlu ? 2 : 1;
  auto* block = reinterpret_cast<float*>(scratch);
  float* totals = block + kBlockColumns * kPanelRows;
  float* up_totals = totals + kMaxTokens * kPanelRows;
  for (int64_t panel = begin; panel < end; panel += step) {
    const int64_t row = panel / step * kPanelRows;  // of the output
    const int64_t count = std::min(kPanelRows, weights.rows() / step - row);
    for (int64_t first = 0; first < args.tokens; first += kMaxTokens) {
      const int64_t tokens = std::min(kMaxTokens, args.tokens - first);
      const PanelSums sums(args, first, tokens, block);
      sums.Run(panel, totals);
      if (args.use == ProductUse::kSwiGlu) {
        sums.Run(panel + 1, up_totals);
        SwiGlu(up_totals, tokens * kPanelRows, totals);
      }
      for (int64_t t = 0; t < tokens; ++t) {
        Put(args.use, totals + t * kPanelRows, count, args.y + (first + t) * args.y_stride + row);
      }
    }
  }
}

}  // namespace
}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gma::cpu {

HWY_EXPORT(PanelProductImpl);

size_t ProductScratchBytes() {
  return (kBlockColumns + 2 * kMaxTokens) * kPanelRows * sizeof(float);
}

void PanelProduct(const ProductArgs& args, int64_t begin, int64_t end, uint8_t* scratch) {
  GMA_CHECK(args.use != ProductUse::kSwiGlu ||
            (begin % 2 == 0 && end % 2 == 0 && args.weights->rows() % (2 * kPanelRows) == 0));
  HWY_DYNAMIC_DISPATCH(PanelProductImpl)(args, begin, end, scratch);
}

}  // namespace gma::cpu
#endif  // HWY_ONCE
