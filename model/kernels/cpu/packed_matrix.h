// A weight matrix in the layout that the product kernels read (model/kernels/cpu/panel_product.h):
// panels of 32 output rows, in each panel the weights of one k side by side, k after k, so that a
// core reads one linear stream and SIMD lanes run across outputs.
//
//   f32    [cols][32] float32
//   bf16   [cols][16] pairs: row i in the low and row 16 + i in the high half of 32 bits
//   int8   [cols / 2][32][2], two columns of a row side by side (a last one beside 0), then scale
//          float32 [32]; weight = scale * q, q in [-127, 127], one scale a row of the matrix
//   int4   groups of 32 columns: [4][32] words of 32 bits, word i of octet o holds q of row i for
//          columns 8 o + 0, 2, 4, 6, 1, 3, 5, 7 from the low bits up, so that a shift and a mask
//          give two neighbours; then scale and minimum float16 [32] each;
//          weight = scale * q + minimum, q in [0, 15]. A last group is filled with q = 0,
//          scale = minimum = 0.
// Rows that fill the last panel are zero.
#ifndef GMA_MODEL_KERNELS_CPU_PACKED_MATRIX_H_
#define GMA_MODEL_KERNELS_CPU_PACKED_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/huge_arena.h"

namespace gma::cpu {

inline constexpr int64_t kPanelRows = 32;
inline constexpr int64_t kGroupColumns = 32;  // of int4
inline constexpr int64_t kGroupWordBytes = kGroupColumns / 8 * kPanelRows * 4;
inline constexpr int64_t kGroupBytes = kGroupWordBytes + 2 * kPanelRows * 2;

enum class WeightFormat { kFloat32, kBFloat16, kInt8, kInt4 };

// Columns that a product reads of its input: `cols`, or whole groups of them. The input's tail is
// zero.
constexpr int64_t PaddedColumns(int64_t cols) {
  return (cols + kGroupColumns - 1) / kGroupColumns * kGroupColumns;
}

// Bytes from the start of an int8 panel to its scales.
constexpr int64_t Int8ScalesPlace(int64_t cols) { return (cols + 1) / 2 * 2 * kPanelRows; }

// A handle on memory of an arena. THREADS: PackPanels from several threads for distinct panels;
// immutable after that.
class PackedMatrix {
 public:
  // Writes row `row` of the matrix as float32 [cols].
  using RowReader = std::function<void(int64_t row, float* out)>;

  PackedMatrix() = default;
  // A matrix in memory of `arena`, which outlives it; zero until packed. REQUIRES: rows, cols >= 1.
  PackedMatrix(WeightFormat format, int64_t rows, int64_t cols, HugeArena& arena);

  // Rounds the rows of panels [begin, end) to the format: to nearest, ties to even for bf16.
  void PackPanels(const RowReader& reader, int64_t begin, int64_t end);

  // Writes row `row` as the product sees it, float32 [cols]. REQUIRES: 0 <= row < rows().
  void UnpackRow(int64_t row, float* out) const;

  WeightFormat format() const { return format_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool empty() const { return rows_ == 0; }
  int64_t panels() const { return (rows_ + kPanelRows - 1) / kPanelRows; }
  size_t panel_bytes() const { return panel_bytes_; }
  size_t bytes() const { return static_cast<size_t>(panels()) * panel_bytes_; }
  const uint8_t* panel(int64_t index) const { return data_ + index * panel_bytes_; }

 private:
  WeightFormat format_ = WeightFormat::kFloat32;
  int64_t rows_ = 0, cols_ = 0;
  size_t panel_bytes_ = 0;
  uint8_t* data_ = nullptr;  // of the arena
};

}  // namespace gma::cpu

#endif  // GMA_MODEL_KERNELS_CPU_PACKED_MATRIX_H_
