#include "model/decoder/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace gma {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int32_t> {};

TEST_P(ThreadPoolTest, DoesEachItemOnceAndShowsWhatItWrote) {
  ThreadPool pool(GetParam());
  ASSERT_EQ(pool.threads(), GetParam());
  std::mt19937 random(1);
  for (int32_t job = 0; job < 3000; ++job) {
    const int64_t items = random() % 70;
    std::vector<int64_t> done(static_cast<size_t>(items), 0);  // plain: Run makes it visible
    pool.Run(items, [&](int64_t item, int32_t thread) {
      ASSERT_LT(thread, GetParam());
      done[static_cast<size_t>(item)] += item + job;
    });
    for (int64_t i = 0; i < items; ++i) ASSERT_EQ(done[static_cast<size_t>(i)], i + job);
    // Now and then long enough for the threads to fall asleep.
    if (job % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

TEST_P(ThreadPoolTest, AThreadDoesOneItemAtATime) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int32_t>> busy(static_cast<size_t>(GetParam()));
  for (int32_t job = 0; job < 200; ++job) {
    pool.Run(50, [&](int64_t, int32_t thread) {
      EXPECT_EQ(busy[static_cast<size_t>(thread)].fetch_add(1), 0);
      busy[static_cast<size_t>(thread)].fetch_sub(1);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

// Long items on a pool with more threads than processors: the caller sleeps until the last is done.
TEST(ThreadPool, WaitsForTheLastItem) {
  ThreadPool pool(4);
  std::atomic<int32_t> done{0};
  pool.Run(4, [&](int64_t item, int32_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5 * item));
    ++done;
  });
  EXPECT_EQ(done.load(), 4);
}

TEST(ThreadPool, SeveralThreadsTakePart) {
  ThreadPool pool(2);
  std::atomic<int32_t> inside{0};
  // Each item waits for the other, so one thread alone would never end.
  pool.Run(2, [&](int64_t, int32_t) {
    ++inside;
    while (inside.load() < 2) std::this_thread::yield();
  });
  EXPECT_EQ(inside.load(), 2);
}

TEST(ThreadPool, ZeroIsOneThreadForEachProcessor) {
  EXPECT_GE(ThreadPool(0).threads(), 1);
  EXPECT_LE(ThreadPool(0).threads(), static_cast<int32_t>(std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace gma
