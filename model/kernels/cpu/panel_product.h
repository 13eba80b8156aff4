// Products of activations with a packed weight matrix: the linear layers of the cpu decoder.
//
// float32 and bfloat16 weights are multiplied with float32 inputs; int8 and int4 weights with
// inputs of 16 bits (RoundInput), whose products are summed exactly in integers.
//
// SAME BITS: every output is one sequence of operations, whatever the number of tokens, the split
// over calls and the vector width: of fused multiply-adds over k, from k = 0 up; of additions of
// the exact sums of blocks of columns, nearly equal ones of at most kExactColumns (int8); of fused
// multiply-adds of the exact sums of groups (int4). A CPU without fused multiply-add has bits of
// its own, but for int8.
#ifndef GMA_MODEL_KERNELS_CPU_PANEL_PRODUCT_H_
#define GMA_MODEL_KERNELS_CPU_PANEL_PRODUCT_H_

#include <cstddef>
#include <cstdint>

#include "model/kernels/cpu/fetch_queue.h"
#include "model/kernels/cpu/packed_matrix.h"

namespace gma::cpu {

// What becomes of product p of a token and a row.
enum class ProductUse {
  kStore,   // y = p
  kAdd,     // y += p
  kSwiGlu,  // panels alternate between gate and up rows: y = silu(p of gate) * p of up, and y has
            // half as many columns as the matrix has rows
};

// Columns of int8 weights whose products with 16 bits add up to less than 2^31.
inline constexpr int64_t kExactColumns = 256;

// Inputs of tokens as whole numbers: x = scale * q (RoundInput). Borrowed; PaddedColumns(cols)
// numbers a token.
struct RoundedInput {
  const int16_t* q;     // [tokens, x_stride]
  const float* scales;  // [tokens]
  const float* sums;    // [tokens, x_stride / 32]: of 32 q each
};

// Borrowed. Token t's input starts at x + t * x_stride and holds PaddedColumns(cols) floats, its
// output at y + t * y_stride.
struct ProductArgs {
  const PackedMatrix* weights;
  ProductUse use;
  int64_t tokens;
  const float* x;        // float32 and bfloat16 weights
  RoundedInput rounded;  // int8 and int4 weights
  int64_t x_stride;
  FetchQueue*
      fetch;  // served on the way with int8 and int4 weights and more than one tile of tokens
  float* y;
  int64_t y_stride;
};

// Bytes of scratch that a call of PanelProduct needs.
size_t ProductScratchBytes();

// Does the panels [begin, end). REQUIRES: scratch aligned to 64 and the caller's alone;
// kSwiGlu: begin and end even, rows a multiple of 64 (fill with zero rows).
// THREADS: any, for distinct panels.
void PanelProduct(const ProductArgs& args, int64_t begin, int64_t end, uint8_t* scratch);

}  // namespace gma::cpu

#endif  // GMA_MODEL_KERNELS_CPU_PANEL_PRODUCT_H_
