#include "model/decoder/thread_pool.h"

#include <sched.h>

#include "base/check.h"
#include "hwy/cache_control.h"

namespace gma {
namespace {

constexpr int32_t kItemBits = 24, kCountBits = 20;
constexpr int32_t kSpins = 2000;  // pauses of some 20 ns each before a thread sleeps

int64_t NextItem(uint64_t ticket) {
  return static_cast<int64_t>(ticket & ((uint64_t{1} << kItemBits) - 1));
}
int64_t ItemCount(uint64_t ticket) {
  return static_cast<int64_t>(ticket >> kItemBits & ((uint64_t{1} << kCountBits) - 1));
}
uint64_t JobNumber(uint64_t ticket) { return ticket >> (kItemBits + kCountBits); }

int32_t Processors() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

ThreadPool::ThreadPool(int32_t threads) {
  GMA_CHECK(threads >= 0);
  const int32_t count = threads > 0 ? threads : Processors();
  for (int32_t i = 1; i < count; ++i) workers_.emplace_back([this, i] { Work(i); });
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  ticket_.fetch_add(uint64_t{1} << (kItemBits + kCountBits));  // a job without an item
  ticket_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t items, Body body) {
  GMA_CHECK(items <= kMostItems);
  if (workers_.empty() || items <= 1) {
    for (int64_t item = 0; item < items; ++item) body(item, 0);
    return;
  }
  body_ = &body;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t job = JobNumber(ticket_.load(std::memory_order_relaxed)) + 1;
  // Sequentially consistent beside sleepers_: either the sleeper sees the job or is seen here.
  ticket_.store(job << (kItemBits + kCountBits) | static_cast<uint64_t>(items) << kItemBits);
  if (sleepers_.load() > 0) ticket_.notify_all();
  DoItems(0);
  for (int32_t spin = 0; done_.load(std::memory_order_acquire) < items; ++spin) {
    if (spin < kSpins) {
      hwy::Pause();
      continue;
    }
    caller_sleeps_ = true;
    if (const int32_t done = done_.load(); done < items) done_.wait(done);
  }
  caller_sleeps_ = false;
}

void ThreadPool::DoItems(int32_t thread) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (NextItem(ticket) < ItemCount(ticket)) {
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    // Claimed: Run cannot return before this item is done, so body_ is this job's.
    (*body_)(NextItem(ticket), thread);
    // Sequentially consistent beside caller_sleeps_, as sleepers_ beside ticket_ above.
    done_.fetch_add(1);
    if (caller_sleeps_.load()) done_.notify_one();
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadPool::Work(int32_t thread) {
  uint64_t seen = 0;
  while (!stopping_) {
    DoItems(thread);
    int32_t spins = 0;
    const auto idle = [&] {
      seen = ticket_.load();
      return NextItem(seen) >= ItemCount(seen) && !stopping_;
    };
    while (idle() && spins < kSpins) {
      hwy::Pause();
      ++spins;
    }
    if (spins < kSpins) continue;
    sleepers_.fetch_add(1);
    if (idle()) ticket_.wait(seen);
    sleepers_.fetch_sub(1);
  }
}

}  // namespace gma
