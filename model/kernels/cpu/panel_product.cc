// With products of 16-bit numbers that AVX-512 VNNI adds up in one instruction.
#define HWY_WANT_AVX3_DL

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
#include "model/kernels/cpu/integer_tiles-inl.h"
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

// The products of one panel of float32 or bfloat16 weights with up to kMaxTokens tokens.
void FloatSums(const ProductArgs& args, int64_t first, int64_t tokens, int64_t panel, float* block,
               float* totals) {
  const bool bf16 = args.weights->format() == WeightFormat::kBFloat16;
  const uint8_t* data = args.weights->panel(panel);
  const int64_t cols = args.weights->cols();
  const Tiles tiles(tokens);
  // Once for all tiles, if they are many: the weights are widened to the block, which stays in the
  // nearest cache.
  const bool blocks = tiles.count > kTilesInPlace;
  const int64_t each = blocks ? kBlockColumns : cols;
  for (int64_t begin = 0; begin < cols; begin += each) {
    const int64_t count = std::min(each, cols - begin);
    const uint8_t* weights = data;
    if (blocks && bf16) {
      Widen<BFloat16Source>(data, begin, count, block);
      weights = reinterpret_cast<const uint8_t*>(block);
    } else if (blocks) {
      weights += begin * kPanelRows * static_cast<int64_t>(sizeof(float));
    }
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      const int64_t token = tiles.begin(tile), columns = tiles.begin(tile + 1) - token;
      const TileArgs tile_args = {.weights = weights,
                                  .cols = count,
                                  .x = args.x + (first + token) * args.x_stride + begin,
                                  .x_stride = args.x_stride,
                                  .add = begin > 0,
                                  .totals = totals + token * kPanelRows};
      if (blocks) {
        CallTile<BlockSource>(tile_args, columns);
      } else if (bf16) {
        CallTile<BFloat16Source>(tile_args, columns);
      } else {
        CallTile<Float32Source>(tile_args, columns);
      }
    }
  }
}

// totals [tokens][32] times the scale of the row (int8; null: none) and that of the token's input.
void Scale(const float* rows, const float* inputs, int64_t tokens, float* totals) {
  for (int64_t t = 0; t < tokens; ++t, totals += kPanelRows) {
    const VF input = hn::Set(df, inputs[t]);
    for (int64_t i = 0; i < kPanelRows; i += kWidth) {
      VF total = hn::LoadU(df, totals + i);
      if (rows != nullptr) total = hn::Mul(total, hn::LoadU(df, rows + i));
      hn::StoreU(hn::Mul(total, input), df, totals + i);
    }
  }
}

// As FloatSums, for int8 and int4 weights: they are widened for each tile, which costs little
// beside the products.
void IntegerSums(const ProductArgs& args, int64_t first, int64_t tokens, int64_t panel,
                 float* totals) {
  const PackedMatrix& weights = *args.weights;
  const bool int8 = weights.format() == WeightFormat::kInt8;
  const uint8_t* data = weights.panel(panel);
  const int64_t cols = int8 ? weights.cols() : PaddedColumns(weights.cols());
  const int64_t sums_stride = args.x_stride / kGroupColumns;
  const Tiles tiles(tokens);
  const int64_t blocks = (cols + kExactColumns - 1) / kExactColumns;
  const int64_t each = PaddedColumns((cols + blocks - 1) / blocks);  // nearly equal
  for (int64_t begin = 0; begin < cols; begin += each) {
    const uint8_t* block = data + (int8 ? begin * kPanelRows : begin / kGroupColumns * kGroupBytes);
    const uint8_t* fetch = block + kAhead;
    int64_t fetch_step = int8 ? kPanelRows * 2 : kGroupBytes * 2 / kGroupColumns;
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      const int64_t token = tiles.begin(tile), columns = tiles.begin(tile + 1) - token;
      if (tile > 0) {  // the first one has fetched the weights
        const uint8_t* piece = args.fetch->Take();
        fetch = piece == nullptr ? block : piece;
        fetch_step = piece == nullptr ? 0 : std::min<int64_t>(2 * kFetchBytes / each, 64);
      }
      const IntegerTileArgs tile_args = {
          .weights = block,
          .cols = std::min(each, cols - begin),
          .x = args.rounded.q + (first + token) * args.x_stride + begin,
          .x_stride = args.x_stride,
          .x_sums = args.rounded.sums + (first + token) * sums_stride + begin / kGroupColumns,
          .sums_stride = sums_stride,
          .fetch = fetch,
          .fetch_step = fetch_step,
          .add = begin > 0,
          .totals = totals + token * kPanelRows};
      if (int8) {
        CallIntegerTile<Int8Tile>(tile_args, columns);
      } else {
        CallIntegerTile<Int4Tile>(tile_args, columns);
      }
    }
  }
  const uint8_t* scales = int8 ? data + Int8ScalesPlace(cols) : nullptr;
  Scale(reinterpret_cast<const float*>(scales), args.rounded.scales + first, tokens, totals);
}

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
  const bool integers =
      weights.format() == WeightFormat::kInt8 || weights.format() == WeightFormat::kInt4;
  const auto sums = [&](int64_t panel, int64_t first, int64_t tokens, float* to) HWY_ATTR {
    if (integers) return IntegerSums(args, first, tokens, panel, to);
    FloatSums(args, first, tokens, panel, block, to);
  };
  for (int64_t panel = begin; panel < end; panel += step) {
    const int64_t row = panel / step * kPanelRows;  // of the output
    const int64_t count = std::min(kPanelRows, weights.rows() / step - row);
    for (int64_t first = 0; first < args.tokens; first += kMaxTokens) {
      const int64_t tokens = std::min(kMaxTokens, args.tokens - first);
      sums(panel, first, tokens, totals);
      if (args.use == ProductUse::kSwiGlu) {
        sums(panel + 1, first, tokens, up_totals);
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
