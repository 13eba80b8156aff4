// Where state rows live: in host memory, or in a device's that the host only reaches by copies.
#ifndef GMA_MODEL_STATE_ROW_MEMORY_H_
#define GMA_MODEL_STATE_ROW_MEMORY_H_

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/state/row_bytes.h"

namespace gma {

// Pointers are of this memory, but for those called `host`. A copy that fails ends the process:
// what it should have brought is lost, and a row of which nobody knows what it holds must not live
// on. THREADS: engine thread only.
class RowMemory {
 public:
  virtual ~RowMemory() = default;

  // Pages of zeros that take memory once they are written.
  static RowMemory& Host();

  virtual bool on_host() const = 0;
  // Zero bytes, aligned to 64. ERRORS: kResourceExhausted naming the bytes asked for.
  virtual absl::StatusOr<uint8_t*> Allocate(size_t bytes) = 0;
  virtual void Free(uint8_t* data, size_t bytes) = 0;

  virtual void Fill(uint8_t* to, uint8_t byte, size_t bytes) = 0;
  virtual void Copy(uint8_t* to, const uint8_t* from, size_t bytes) = 0;
  virtual void Read(uint8_t* host, const uint8_t* from, size_t bytes) = 0;
  virtual void Write(uint8_t* to, const uint8_t* host, size_t bytes) = 0;
};

// One row's bytes, wherever they are, to be read. A view: what it looks at outlives it.
class RowSource {
 public:
  // Bytes are a row in host memory.
  template <typename Bytes>
  requires std::convertible_to<const Bytes&, absl::Span<const uint8_t>> RowSource(
      const Bytes& host)  // NOLINT: so it is converted
      : RowSource(RowMemory::Host(), absl::Span<const uint8_t>(host).data(), host.size()) {}
  RowSource(RowMemory& memory, const uint8_t* data, size_t size)
      : memory_(&memory), data_(data), size_(size) {}

  size_t size() const { return size_; }
  RowBytes Copy() const;

 private:
  RowMemory* memory_;
  const uint8_t* data_;
  size_t size_;
};

}  // namespace gma

#endif  // GMA_MODEL_STATE_ROW_MEMORY_H_
