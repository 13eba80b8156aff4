#include "model/state/row_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace gma {
namespace {

class HostMemory final : public RowMemory {
 public:
  bool on_host() const override { return true; }
  absl::StatusOr<uint8_t*> Allocate(size_t bytes) override {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
    }
    madvise(data, bytes, MADV_HUGEPAGE);  // where it is refused, steps are slower and nothing else
    return static_cast<uint8_t*>(data);
  }
  void Free(uint8_t* data, size_t bytes) override { munmap(data, bytes); }
  void Fill(uint8_t* to, uint8_t byte, size_t bytes) override { std::memset(to, byte, bytes); }
  void Copy(uint8_t* to, const uint8_t* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  void Read(uint8_t* host, const uint8_t* from, size_t bytes) override { Copy(host, from, bytes); }
  void Write(uint8_t* to, const uint8_t* host, size_t bytes) override { Copy(to, host, bytes); }
};

}  // namespace

RowMemory& RowMemory::Host() {
  static HostMemory host;
  return host;
}

RowBytes RowSource::Copy() const {
  if (memory_->on_host()) return RowBytes(data_, data_ + size_);
  RowBytes bytes(size_);
  memory_->Read(bytes.data(), data_, size_);
  return bytes;
}

}  // namespace gma
