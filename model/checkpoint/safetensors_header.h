// The JSON header of a safetensors file, read as a stream of events: no document is built, so a
// hostile header costs little more memory than its own bytes.
#ifndef GMA_MODEL_CHECKPOINT_SAFETENSORS_HEADER_H_
#define GMA_MODEL_CHECKPOINT_SAFETENSORS_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/checkpoint/safetensors.h"

namespace gma {

inline constexpr size_t kMaxSafetensorsHeaderBytes = size_t{16} << 20;
inline constexpr size_t kMaxSafetensorsEntries = 100'000;
inline constexpr size_t kMaxTensorNameBytes = 512;
inline constexpr size_t kMaxTensorDimensions = 8;
inline constexpr size_t kSafetensorsLengthBytes = 8;  // little-endian length of the header
inline constexpr std::string_view kSafetensorsMetadata = "__metadata__";

using TensorMap = std::map<std::string, TensorView, std::less<>>;

// The type called `name` in a file, or nothing.
std::optional<TensorType> TensorTypeFromName(std::string_view name);
// Every type's name, separated by commas.
std::string TensorTypeNames();

// A tensor's name as it may stand in a message.
std::string ShowTensorName(std::string_view name);

// Bytes of a tensor, or nothing when a size is negative or the product does not fit 64 bits.
std::optional<uint64_t> TensorBytes(TensorType type, absl::Span<const int64_t> shape);

// Reads the entries of `header` and cuts each one's bytes out of `data`, which starts
// `data_offset` bytes into the file. Every entry lies inside `data`, is aligned to its elements and
// has the bytes of its shape; whether entries overlap is not looked at here.
// ERRORS: kInvalidArgument naming the entry and the reason.
absl::StatusOr<TensorMap> ParseSafetensorsHeader(std::string_view header,
                                                 absl::Span<const uint8_t> data,
                                                 size_t data_offset);

}  // namespace gma

#endif  // GMA_MODEL_CHECKPOINT_SAFETENSORS_HEADER_H_
