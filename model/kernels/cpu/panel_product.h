// Products of activations with a packed weight matrix: the linear layers of the cpu decoder.
//
// SAME BITS: every output is one sequence of fused multiply-adds over k, from k = 0 up (int4: one
// such sequence a group, the groups added in their order), whatever the number of tokens, the split
// over calls and the vector width. A CPU without fused multiply-add has bits of its own.
#ifndef GMA_MODEL_KERNELS_CPU_PANEL_PRODUCT_H_
#define GMA_MODEL_KERNELS_CPU_PANEL_PRODUCT_H_

#include <cstddef>
#include <cstdint>

#include "model/kernels/cpu/packed_matrix.h"

namespace gma::cpu {

// What becomes of product p of a token and a row.
enum class ProductUse {
  kStore,   // y = p
  kAdd,     // y += p
  kSwiGlu,  // panels alternate between gate and up rows: y = silu(p of gate) * p of up, and y has
            // half as many columns as the matrix has rows
};

// Borrowed. Token t's input starts at x + t * x_stride and holds PaddedColumns(cols) floats, its
// output at y + t * y_stride.
struct ProductArgs {
  const PackedMatrix* weights;
  ProductUse use;
  int64_t tokens;
  const float* x;
  int64_t x_stride;
  // [tokens, x_stride / 32], sums of 32 inputs each (GroupSums); read for int4 only.
  const float* x_sums;
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
