#include "model/checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/checkpoint/safetensors_header.h"

namespace gma {
namespace {

struct TypeRow {
  TensorType type;
  std::string_view name;
  size_t bytes;
};

constexpr TypeRow kTypes[] = {
    {TensorType::kFloat64, "F64", 8}, {TensorType::kFloat32, "F32", 4},
    {TensorType::kFloat16, "F16", 2}, {TensorType::kBFloat16, "BF16", 2},
    {TensorType::kInt64, "I64", 8},   {TensorType::kInt32, "I32", 4},
    {TensorType::kUint8, "U8", 1},
};

const TypeRow& RowOf(TensorType type) {
  for (const TypeRow& row : kTypes) {
    if (row.type == type) return row;
  }
  CheckFailed(__FILE__, __LINE__, "unknown TensorType");
}

uint64_t ReadLittleEndian64(absl::Span<const uint8_t> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(value); ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return value;
}

// The entries, in the order of their bytes, cover `data` exactly: no overlap, no hole, no rest.
absl::Status CheckCover(const TensorMap& tensors, absl::Span<const uint8_t> data) {
  struct Piece {
    size_t begin, end;
    std::string_view name;
  };
  std::vector<Piece> pieces;
  pieces.reserve(tensors.size());
  for (const auto& [name, view] : tensors) {
    size_t begin = static_cast<size_t>(view.data.data() - data.data());
    pieces.push_back({begin, begin + view.data.size(), name});
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  size_t covered = 0;
  for (const Piece& piece : pieces) {
    if (piece.begin != covered) {
      return absl::InvalidArgumentError(
          absl::StrCat("entry ", ShowTensorName(piece.name), ": data starts at ", piece.begin,
                       piece.begin < covered ? ", overlap with the entry before, which ends at "
                                             : ", hole after the entry before, which ends at ",
                       covered));
    }
    covered = piece.end;
  }
  if (covered != data.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(data.size() - covered, " trailing bytes after the last entry"));
  }
  return absl::OkStatus();
}

}  // namespace

size_t TensorTypeBytes(TensorType type) { return RowOf(type).bytes; }

std::string_view TensorTypeName(TensorType type) { return RowOf(type).name; }

std::optional<TensorType> TensorTypeFromName(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (row.name == name) return row.type;
  }
  return std::nullopt;
}

std::string TensorTypeNames() {
  std::string names;
  for (const TypeRow& row : kTypes) {
    absl::StrAppend(&names, names.empty() ? "" : ", ",
                    absl::string_view(row.name.data(), row.name.size()));
  }
  return names;
}

absl::StatusOr<TensorMap> ParseSafetensors(absl::Span<const uint8_t> file) {
  if (file.size() < kSafetensorsLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("truncated header: the file has ", file.size(), " bytes"));
  }
  const uint64_t header_bytes = ReadLittleEndian64(file);
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("oversized header of ", header_bytes,
                                                   " bytes, limit ", kMaxSafetensorsHeaderBytes));
  }
  if (header_bytes > file.size() - kSafetensorsLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("truncated header: ", header_bytes, " bytes announced, ",
                     file.size() - kSafetensorsLengthBytes, " in the file"));
  }
  const size_t data_offset = kSafetensorsLengthBytes + static_cast<size_t>(header_bytes);
  const std::string_view header(
      reinterpret_cast<const char*>(file.data()) + kSafetensorsLengthBytes,
      static_cast<size_t>(header_bytes));
  if (header.empty() || header.front() != '{') {
    return absl::InvalidArgumentError("header: does not start with '{'");
  }
  const absl::Span<const uint8_t> data = file.subspan(data_offset);
  GMA_ASSIGN_OR_RETURN(TensorMap tensors, ParseSafetensorsHeader(header, data, data_offset));
  GMA_RETURN_IF_ERROR(CheckCover(tensors, data));
  return tensors;
}

void CopyFloats(const TensorView& tensor, size_t begin, size_t count, float* out) {
  GMA_CHECK(begin + count <= tensor.data.size() / TensorTypeBytes(tensor.type));
  if (tensor.type == TensorType::kFloat32) {
    std::copy_n(tensor.As<float>().data() + begin, count, out);
    return;
  }
  GMA_CHECK(tensor.type == TensorType::kBFloat16);
  const uint16_t* data = tensor.As<uint16_t>().data() + begin;
  for (size_t i = 0; i < count; ++i) out[i] = std::bit_cast<float>(uint32_t{data[i]} << 16);
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  GMA_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  absl::StatusOr<TensorMap> tensors = ParseSafetensors(file.bytes());
  if (!tensors.ok()) {
    return absl::Status(tensors.status().code(),
                        absl::StrCat(path, ": ", tensors.status().message()));
  }
  return SafetensorsFile(std::move(file), *std::move(tensors));
}

}  // namespace gma
