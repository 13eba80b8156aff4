// Memory that the next job will read, fetched into the cache by a job that is busy with arithmetic:
// a product of many tokens leaves most of the memory's bandwidth to others.
#ifndef GMA_MODEL_KERNELS_CPU_FETCH_QUEUE_H_
#define GMA_MODEL_KERNELS_CPU_FETCH_QUEUE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gma::cpu {

inline constexpr size_t kFetchBytes = 6144;  // of a piece: a line for each pair of 192 columns

// THREADS: Take from any; Clear and Add while nobody takes.
class FetchQueue {
 public:
  // Holds at most `pieces`; allocates nothing later.
  explicit FetchQueue(size_t pieces) { pieces_.reserve(pieces); }

  void Clear() {
    pieces_.clear();
    next_.store(0, std::memory_order_relaxed);
  }

  // Borrowed, and never read: memory behind `bytes` may be fetched as well. What does not fit is
  // left out.
  void Add(const void* memory, size_t bytes) {
    const auto* begin = static_cast<const uint8_t*>(memory);
    for (size_t i = 0; i < bytes && pieces_.size() < pieces_.capacity(); i += kFetchBytes) {
      pieces_.push_back(begin + i);
    }
  }

  // A piece that nobody has taken, or null.
  const uint8_t* Take() {
    if (next_.load(std::memory_order_relaxed) >= pieces_.size()) return nullptr;
    const size_t piece = next_.fetch_add(1, std::memory_order_relaxed);
    return piece < pieces_.size() ? pieces_[piece] : nullptr;
  }

 private:
  std::vector<const uint8_t*> pieces_;
  std::atomic<size_t> next_{0};
};

}  // namespace gma::cpu

#endif  // GMA_MODEL_KERNELS_CPU_FETCH_QUEUE_H_
