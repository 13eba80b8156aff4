#include "model/state/row_codec.h"

#include <bit>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace gma {
namespace {

static_assert(std::endian::native == std::endian::little, "a row's bytes are little endian");

constexpr size_t kLine = 64;  // blocks begin at multiples of it
constexpr size_t kLineFloats = kLine / sizeof(float);

enum class Kept { kExact, kRounded, kDropped };

// From one block's start to the next one's, so that the padding goes with the block.
struct Segment {
  size_t begin, bytes;
  Kept kept;
};

std::vector<Segment> SegmentsOf(const StateLayout& layout) {
  std::vector<Segment> segments = {{.begin = 0, .bytes = 0, .kept = Kept::kExact}};  // position
  const auto add = [&](size_t begin, Kept kept) {
    if (begin == LayerLayout::kAbsent) return;
    segments.back().bytes = begin - segments.back().begin;
    segments.push_back({.begin = begin, .bytes = 0, .kept = kept});
  };
  for (const LayerLayout& layer : layout.layers()) {  // in the order of state_layout.h
    add(layer.mass, Kept::kExact);
    add(layer.slot_position, Kept::kExact);
    add(layer.memory, Kept::kRounded);
    add(layer.compensation, Kept::kDropped);
    add(layer.conv, Kept::kRounded);
    add(layer.window_key, Kept::kRounded);
    add(layer.window_value, Kept::kRounded);
    add(layer.window_route, Kept::kRounded);
    add(layer.window_log_decay, Kept::kExact);
  }
  segments.back().bytes = layout.row_bytes() - segments.back().begin;
  return segments;
}

size_t EncodedBytes(const Segment& segment) {
  switch (segment.kept) {
    case Kept::kExact:
      return segment.bytes;
    case Kept::kRounded:
      return segment.bytes / 2;
    case Kept::kDropped:
      return 0;
  }
  return 0;
}

// The upper half of the float nearest to `bits`. A NaN stays one.
uint16_t Round(uint32_t bits) {
  const uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1);
  const uint32_t quiet = bits | 0x400000;
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  return static_cast<uint16_t>((nan ? quiet : nearest) >> 16);
}

// Lines of 16 floats, so that the compiler makes vectors of them at any level of optimisation.
void RoundLines(const uint8_t* from, size_t lines, uint8_t* to) {
  for (size_t line = 0; line < lines; ++line) {
    uint32_t wide[kLineFloats];
    uint16_t narrow[kLineFloats];
    std::memcpy(wide, from + line * sizeof(wide), sizeof(wide));
    for (size_t i = 0; i < kLineFloats; ++i) narrow[i] = Round(wide[i]);
    std::memcpy(to + line * sizeof(narrow), narrow, sizeof(narrow));
  }
}

void WidenLines(const uint8_t* from, size_t lines, uint8_t* to) {
  for (size_t line = 0; line < lines; ++line) {
    uint16_t narrow[kLineFloats];
    uint32_t wide[kLineFloats];
    std::memcpy(narrow, from + line * sizeof(narrow), sizeof(narrow));
    for (size_t i = 0; i < kLineFloats; ++i) wide[i] = uint32_t{narrow[i]} << 16;
    std::memcpy(to + line * sizeof(wide), wide, sizeof(wide));
  }
}

}  // namespace

size_t EncodedBytes(const StateLayout& layout, RowEncoding encoding) {
  if (encoding == RowEncoding::kFloat32) return layout.row_bytes();
  size_t bytes = 0;
  for (const Segment& segment : SegmentsOf(layout)) bytes += EncodedBytes(segment);
  return bytes;
}

RowBytes EncodeRow(const StateLayout& layout, absl::Span<const uint8_t> row, RowEncoding encoding) {
  GMA_CHECK(row.size() == layout.row_bytes());
  if (encoding == RowEncoding::kFloat32) return {row.begin(), row.end()};
  RowBytes encoded(EncodedBytes(layout, encoding));
  uint8_t* to = encoded.data();
  for (const Segment& segment : SegmentsOf(layout)) {
    const uint8_t* from = row.data() + segment.begin;
    if (segment.kept == Kept::kExact) std::memcpy(to, from, segment.bytes);
    if (segment.kept == Kept::kRounded) RoundLines(from, segment.bytes / kLine, to);
    to += EncodedBytes(segment);
  }
  return encoded;
}

void DecodeRow(const StateLayout& layout, absl::Span<const uint8_t> encoded, RowEncoding encoding,
               absl::Span<uint8_t> row) {
  GMA_CHECK(encoded.size() == EncodedBytes(layout, encoding) && row.size() == layout.row_bytes());
  if (encoding == RowEncoding::kFloat32) {
    std::memcpy(row.data(), encoded.data(), row.size());
    return;
  }
  const uint8_t* from = encoded.data();
  for (const Segment& segment : SegmentsOf(layout)) {
    uint8_t* to = row.data() + segment.begin;
    if (segment.kept == Kept::kExact) std::memcpy(to, from, segment.bytes);
    if (segment.kept == Kept::kRounded) WidenLines(from, segment.bytes / kLine, to);
    if (segment.kept == Kept::kDropped) std::memset(to, 0, segment.bytes);
    from += EncodedBytes(segment);
  }
}

}  // namespace gma
