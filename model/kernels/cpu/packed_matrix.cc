#include "model/kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "base/check.h"

namespace gma::cpu {
namespace {

int64_t Groups(int64_t cols) { return PaddedColumns(cols) / kGroupColumns; }

// Where column k of row `lane` stands in an int8 panel.
int64_t Int8Place(int64_t k, int64_t lane) { return (k / 2 * kPanelRows + lane) * 2 + k % 2; }

// Where column k of an octet stands in its word.
int NibbleShift(int64_t k) { return static_cast<int>(4 * (k % 2 * 4 + k % 8 / 2)); }

size_t PanelBytes(WeightFormat format, int64_t cols) {
  const size_t weights = static_cast<size_t>(cols) * kPanelRows;
  switch (format) {
    case WeightFormat::kFloat32:
      return weights * sizeof(float);
    case WeightFormat::kBFloat16:
      return weights * sizeof(uint16_t);
    case WeightFormat::kInt8:
      return static_cast<size_t>(Int8ScalesPlace(cols)) + kPanelRows * sizeof(float);
    case WeightFormat::kInt4:
      return static_cast<size_t>(Groups(cols)) * kGroupBytes;
  }
  return 0;
}

uint16_t ToBFloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float FromBFloat16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }

// Where row `lane` of a bf16 panel stands among the 32 numbers of one k.
int64_t PairPlace(int64_t lane) { return lane < 16 ? 2 * lane : 2 * (lane - 16) + 1; }

// To nearest, ties to even; beyond the type's range its largest number.
uint16_t ToFloat16(float x) {
  const float size = std::min(std::fabs(x), 65504.0f);
  const int exponent = std::max(size > 0 ? std::ilogb(size) : -14, -14);
  // In units of the last place; 1024 and more for a normal number, 2048 where it rounds up.
  const long units = std::lrint(std::ldexp(size, 10 - exponent));
  const long bits = units < 1024 ? units : units - 1024 + (long{exponent} + 15) * 1024;
  return static_cast<uint16_t>(bits | (std::signbit(x) ? 0x8000 : 0));
}

float FromFloat16(uint16_t x) {
  const int exponent = x >> 10 & 31, fraction = x & 1023;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                   : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return x & 0x8000 ? -size : size;
}

void PackInt8Row(const float* row, int64_t cols, int64_t lane, uint8_t* panel) {
  float largest = 0;
  for (int64_t k = 0; k < cols; ++k) largest = std::max(largest, std::fabs(row[k]));
  const float scale = largest / 127;
  reinterpret_cast<float*>(panel + Int8ScalesPlace(cols))[lane] = scale;
  if (scale == 0) return;
  for (int64_t k = 0; k < cols; ++k) {
    const long q = std::clamp(std::lrint(row[k] / scale), -127L, 127L);
    panel[Int8Place(k, lane)] = static_cast<uint8_t>(static_cast<int8_t>(q));
  }
}

// One group of a row. `count` <= 32 columns of it exist.
void PackInt4Group(const float* values, int64_t count, int64_t lane, uint8_t* group) {
  const auto [low, high] = std::minmax_element(values, values + count);
  auto* halves = reinterpret_cast<uint16_t*>(group + kGroupWordBytes);
  // With the steps that the kernel will see, after their rounding.
  const uint16_t minimum = ToFloat16(*low);
  const uint16_t scale = ToFloat16((*high - FromFloat16(minimum)) / 15);
  halves[lane] = scale;
  halves[kPanelRows + lane] = minimum;
  const float step = FromFloat16(scale), base = FromFloat16(minimum);
  if (step == 0) return;
  auto* words = reinterpret_cast<uint32_t*>(group);
  for (int64_t k = 0; k < count; ++k) {
    const long q = std::clamp(std::lrint((values[k] - base) / step), 0L, 15L);
    words[k / 8 * kPanelRows + lane] |= static_cast<uint32_t>(q) << NibbleShift(k);
  }
}

}  // namespace

PackedMatrix::PackedMatrix(WeightFormat format, int64_t rows, int64_t cols, HugeArena& arena)
    : format_(format), rows_(rows), cols_(cols), panel_bytes_(PanelBytes(format, cols)) {
  GMA_CHECK(rows >= 1 && cols >= 1);
  static_assert(std::endian::native == std::endian::little);
  data_ = arena.Allocate(bytes());
}

void PackedMatrix::PackPanels(const RowReader& reader, int64_t begin, int64_t end) {
  std::vector<float> row(static_cast<size_t>(cols_));
  for (int64_t index = begin * kPanelRows; index < std::min(end * kPanelRows, rows_); ++index) {
    reader(index, row.data());
    uint8_t* panel = data_ + index / kPanelRows * panel_bytes_;
    const int64_t lane = index % kPanelRows;
    switch (format_) {
      case WeightFormat::kFloat32:
        for (int64_t k = 0; k < cols_; ++k) {
          reinterpret_cast<float*>(panel)[k * kPanelRows + lane] = row[k];
        }
        break;
      case WeightFormat::kBFloat16:
        for (int64_t k = 0; k < cols_; ++k) {
          reinterpret_cast<uint16_t*>(panel)[k * kPanelRows + PairPlace(lane)] = ToBFloat16(row[k]);
        }
        break;
      case WeightFormat::kInt8:
        PackInt8Row(row.data(), cols_, lane, panel);
        break;
      case WeightFormat::kInt4:
        for (int64_t first = 0; first < cols_; first += kGroupColumns) {
          PackInt4Group(row.data() + first, std::min(kGroupColumns, cols_ - first), lane,
                        panel + first / kGroupColumns * kGroupBytes);
        }
        break;
    }
  }
}

void PackedMatrix::UnpackRow(int64_t row, float* out) const {
  GMA_CHECK(0 <= row && row < rows_);
  const uint8_t* data = panel(row / kPanelRows);
  const int64_t lane = row % kPanelRows;
  for (int64_t k = 0; k < cols_; ++k) {
    switch (format_) {
      case WeightFormat::kFloat32:
        out[k] = reinterpret_cast<const float*>(data)[k * kPanelRows + lane];
        break;
      case WeightFormat::kBFloat16:
        out[k] =
            FromBFloat16(reinterpret_cast<const uint16_t*>(data)[k * kPanelRows + PairPlace(lane)]);
        break;
      case WeightFormat::kInt8:
        out[k] = reinterpret_cast<const float*>(data + Int8ScalesPlace(cols_))[lane] *
                 static_cast<float>(static_cast<int8_t>(data[Int8Place(k, lane)]));
        break;
      case WeightFormat::kInt4: {
        const uint8_t* group = data + k / kGroupColumns * kGroupBytes;
        const auto* halves = reinterpret_cast<const uint16_t*>(group + kGroupWordBytes);
        const uint32_t word =
            reinterpret_cast<const uint32_t*>(group)[k % kGroupColumns / 8 * kPanelRows + lane];
        const float q = static_cast<float>(word >> NibbleShift(k) & 15);
        out[k] = std::fma(FromFloat16(halves[lane]), q, FromFloat16(halves[kPanelRows + lane]));
        break;
      }
    }
  }
}

}  // namespace gma::cpu
