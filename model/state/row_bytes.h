// The bytes of a state row outside the pool. What a session has read can be told from them, so the
// memory is zeroed before it goes back.
#ifndef GMA_MODEL_STATE_ROW_BYTES_H_
#define GMA_MODEL_STATE_ROW_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gma {

// From 1 MiB on, a row has pages of its own: malloc would keep what is freed between others, up to
// a seventh of all rows. The last few that were freed wait for the next rows of their size, as a
// row mostly comes when another one goes, and fresh pages cost more than the copy into them.
// THREADS: any.
inline constexpr int kSpareRows = 4;
// The attribute tells the compiler that a copy into it is a memcpy, not a loop over bytes.
[[gnu::malloc]] void* AllocateRowBytes(size_t bytes);
// Zeroes them. `bytes`: as they were asked for.
void FreeRowBytes(void* data, size_t bytes);

template <typename T>
class ZeroingAllocator {
 public:
  using value_type = T;

  ZeroingAllocator() = default;
  template <typename U>
  ZeroingAllocator(const ZeroingAllocator<U>& other) {}  // NOLINT: a conversion, as is required

  T* allocate(size_t count) { return static_cast<T*>(AllocateRowBytes(count * sizeof(T))); }
  void deallocate(T* data, size_t count) { FreeRowBytes(data, count * sizeof(T)); }
  friend bool operator==(ZeroingAllocator, ZeroingAllocator) { return true; }
};

using RowBytes = std::vector<uint8_t, ZeroingAllocator<uint8_t>>;

}  // namespace gma

#endif  // GMA_MODEL_STATE_ROW_BYTES_H_
