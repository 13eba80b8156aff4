// A file mapped read-only into memory.
#ifndef GMA_BASE_MAPPED_FILE_H_
#define GMA_BASE_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace gma {

// Move-only owner of the mapping. The bytes stay valid for the life of the object.
class MappedFile {
 public:
  // Maps a regular file. An empty file gives an empty span.
  // ERRORS: kNotFound when there is none; kInvalidArgument for a directory, fifo or device (never
  // blocks on one); kInternal for other failures of the system, with its reason.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  absl::Span<const uint8_t> bytes() const { return {data_, size_}; }
  // Takes the bytes out of this process's resident memory; they stay valid and come back from the
  // file when they are read again.
  void LetGoOfPages() const;
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  MappedFile(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  void Unmap();

  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Reads a whole regular file of at most `max_bytes`.
// ERRORS: as Open; kInvalidArgument, naming size and limit, for a longer file.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

}  // namespace gma

#endif  // GMA_BASE_MAPPED_FILE_H_
