// A state row as it is kept outside the pool: as it is, or with its floats in bfloat16, in about
// half the bytes.
//
// kBfloat16 rounds memory, conv and window keys, values and routes to the nearest bfloat16, ties
// to even: an error of at most 2^-9 of each number. The position, the masses (float64) and the
// window's decays, which scale masses, stay exact; compensation terms, which are below what the
// rounding loses, are dropped and zero again after decoding. Encoding what was decoded gives the
// same bytes.
#ifndef GMA_MODEL_STATE_ROW_CODEC_H_
#define GMA_MODEL_STATE_ROW_CODEC_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "model/state/row_bytes.h"
#include "model/state/state_layout.h"

namespace gma {

// The numbers stand in sealed files: they never change their meaning.
enum class RowEncoding : uint32_t { kFloat32 = 0, kBfloat16 = 1 };

// Bytes of an encoded row; a multiple of 32.
size_t EncodedBytes(const StateLayout& layout, RowEncoding encoding);

// REQUIRES: row.size() == layout.row_bytes().
RowBytes EncodeRow(const StateLayout& layout, absl::Span<const uint8_t> row, RowEncoding encoding);

// Writes the whole of `row`. Any bytes decode to some row.
// REQUIRES: encoded.size() == EncodedBytes(layout, encoding); row.size() == layout.row_bytes().
void DecodeRow(const StateLayout& layout, absl::Span<const uint8_t> encoded, RowEncoding encoding,
               absl::Span<uint8_t> row);

}  // namespace gma

#endif  // GMA_MODEL_STATE_ROW_CODEC_H_
