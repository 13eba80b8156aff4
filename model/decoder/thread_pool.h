// The threads of the cpu decoder: a fixed number of them, which share the items of one job at
// a time.
//
// A thread without work spins for some tens of microseconds, so that the many short jobs of a step
// follow each other without a system call, and then sleeps. Items are claimed one by one: a thread
// that the machine has taken away holds up no more than the item it is in, and one that wakes late
// is not waited for.
#ifndef GMA_MODEL_DECODER_THREAD_POOL_H_
#define GMA_MODEL_DECODER_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace gma {

// THREADS: Run from one thread at a time.
class ThreadPool {
 public:
  // Does one item; `thread` in [0, threads()) is whose scratch it may use.
  using Body = absl::FunctionRef<void(int64_t item, int32_t thread)>;
  static constexpr int64_t kMostItems = (int64_t{1} << 20) - 1;

  // `threads` in all, the caller's included; 0: one for each processor that the process may use.
  explicit ThreadPool(int32_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls body(item, thread) once for each item in [0, items) and returns when all are done. What
  // the caller wrote before is visible to the body, and what it wrote to the caller afterwards.
  // Allocates nothing. REQUIRES: items <= kMostItems; the body throws nothing.
  void Run(int64_t items, Body body);

  int32_t threads() const { return static_cast<int32_t>(workers_.size()) + 1; }

 private:
  void Work(int32_t thread);
  // Claims and does items of the current job until none is left.
  void DoItems(int32_t thread);

  // The current job: number (20 bits), items (20 bits), next item (24 bits: it may run over by one
  // a thread). One word, so that a late thread cannot claim an item of a job that it has not seen.
  std::atomic<uint64_t> ticket_{0};
  const Body* body_ = nullptr;    // of the current job; read only by who has claimed an item
  std::atomic<int32_t> done_{0};  // items of the current job
  std::atomic<int32_t> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

}  // namespace gma

#endif  // GMA_MODEL_DECODER_THREAD_POOL_H_
