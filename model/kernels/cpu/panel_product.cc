#include "model/kernels/cpu/panel_product.h"

#include <algorithm>
#include <cstring>

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
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "model/kernels/cpu/panel_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kTilesInPlace = kWidth >= 16 ? 4 : 2;  // more than these share a widened block

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
    // Exp is good up to 104, and e^88 is large enough.
    const VF minus = hn::Min(hn::Neg(g), hn::Set(df, 88.0f));
    const VF divisor = hn::Add(hn::Set(df, 1.0f), hn::Exp(df, minus));
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
