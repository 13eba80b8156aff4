// The bytes of a state row outside the pool. What a session has read can be told from them, so the
// memory is zeroed before it goes back.
#ifndef GMA_MODEL_STATE_ROW_BYTES_H_
#define GMA_MODEL_STATE_ROW_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace gma {

template <typename T>
class ZeroingAllocator {
 public:
  using value_type = T;

  ZeroingAllocator() = default;
  template <typename U>
  ZeroingAllocator(const ZeroingAllocator<U>& other) {}  // NOLINT: a conversion, as is required

  T* allocate(size_t count) { return std::allocator<T>().allocate(count); }
  void deallocate(T* data, size_t count) {
    explicit_bzero(data, count * sizeof(T));
    std::allocator<T>().deallocate(data, count);
  }
  friend bool operator==(ZeroingAllocator, ZeroingAllocator) { return true; }
};

using RowBytes = std::vector<uint8_t, ZeroingAllocator<uint8_t>>;

}  // namespace gma

#endif  // GMA_MODEL_STATE_ROW_BYTES_H_
