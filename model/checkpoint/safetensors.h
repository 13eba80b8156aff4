// The safetensors format, read by mmap and written whole. A file is refused, naming the entry,
// before any tensor is built if anything in it does not add up.
#ifndef GMA_MODEL_CHECKPOINT_SAFETENSORS_H_
#define GMA_MODEL_CHECKPOINT_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/mapped_file.h"

namespace gma {

enum class TensorType { kFloat64, kFloat32, kFloat16, kBFloat16, kInt64, kInt32, kUint8 };

// Bytes of one element, and the name used in the file ("F32", ...).
size_t TensorTypeBytes(TensorType type);
std::string_view TensorTypeName(TensorType type);

struct TensorView {
  TensorType type;
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> data;  // borrowed from the file; little endian, row-major

  // Typed view. REQUIRES: T matches `type` in size and kind, and the data is aligned for T
  // (the reader refuses files whose tensors are not).
  template <typename T>
  absl::Span<const T> As() const {
    return {reinterpret_cast<const T*>(data.data()), data.size() / sizeof(T)};
  }
};

// Numbers [begin, begin + count) of a tensor as float32. REQUIRES: type F32 or BF16; within it.
void CopyFloats(const TensorView& tensor, size_t begin, size_t count, float* out);

// Limits of a header: 16 MiB, 100,000 entries, names of 512 bytes, 8 dimensions.
class SafetensorsFile {
 public:
  // ERRORS: kNotFound; kInvalidArgument naming file, entry and reason: truncated or oversized
  // header, duplicate or overlong name, unknown type, negative or overflowing shape, bytes that do
  // not match the shape, overlap, hole, data outside the file, trailing bytes, misaligned data.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  // Tensors by name. Views stay valid for the life of the file object (also after a move).
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }

  // See MappedFile.
  void LetGoOfPages() const { file_.LetGoOfPages(); }

 private:
  SafetensorsFile(MappedFile file, std::map<std::string, TensorView, std::less<>> tensors)
      : file_(std::move(file)), tensors_(std::move(tensors)) {}

  MappedFile file_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

// Parses the header of a whole file image; what Open and the fuzz target share.
absl::StatusOr<std::map<std::string, TensorView, std::less<>>> ParseSafetensors(
    absl::Span<const uint8_t> file);

// Writes `tensors` to `path` atomically (temporary file, fsync, rename). Data is copied as it is.
// ERRORS: kInvalidArgument when a view's bytes do not match its shape; kInternal with the system's
// reason, and no file is left behind.
absl::Status WriteSafetensors(const std::string& path,
                              const std::map<std::string, TensorView, std::less<>>& tensors);

}  // namespace gma

#endif  // GMA_MODEL_CHECKPOINT_SAFETENSORS_H_
