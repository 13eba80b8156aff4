// What the machine can do, with the widest vectors that it has: bandwidth of reading memory, and
// float32 fused multiply-adds from registers. Measures what the lines on standard input ask for and
// answers each with one JSON line.
//   read THREADS SECONDS    bytes a second from 512 MiB, each thread its own part, front to back
//   fma THREADS SECONDS     float32 operations a second (a multiply-add is two)
#include <sys/mman.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/machine_probe.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gma::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Reads `bytes` bytes, a multiple of 1024, once; returns something that depends on all of them.
uint32_t ReadOnce(const uint8_t* data, size_t bytes) {
  const hn::ScalableTag<uint32_t> d;
  const size_t lanes = hn::Lanes(d);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  const auto* words = reinterpret_cast<const uint32_t*>(data);
  for (size_t i = 0; i < bytes / sizeof(uint32_t); i += 4 * lanes) {
    // 2 KiB ahead: the hardware's own prefetcher stops at each page.
    for (size_t line = 0; line < 4 * lanes; line += 16) hwy::Prefetch(words + i + line + 512);
    a = hn::Xor(a, hn::Load(d, words + i));
    b = hn::Xor(b, hn::Load(d, words + i + lanes));
    c = hn::Xor(c, hn::Load(d, words + i + 2 * lanes));
    e = hn::Xor(e, hn::Load(d, words + i + 3 * lanes));
  }
  return hn::GetLane(hn::Xor(hn::Xor(a, b), hn::Xor(c, e)));
}

// `rounds` times 12 independent multiply-adds, enough to hide the latency of two units.
float MultiplyAdds(int64_t rounds, float seed) {
  const hn::ScalableTag<float> d;
  const auto half = hn::Set(d, 0.5f);  // s / 2 + 1/2 stays finite and normal
  const auto start = hn::Set(d, seed);
  // Each starts elsewhere, or the compiler would keep one of the twelve.
  auto s0 = start, s1 = hn::Add(s0, start), s2 = hn::Add(s1, start), s3 = hn::Add(s2, start);
  auto s4 = hn::Add(s3, start), s5 = hn::Add(s4, start), s6 = hn::Add(s5, start);
  auto s7 = hn::Add(s6, start), s8 = hn::Add(s7, start), s9 = hn::Add(s8, start);
  auto s10 = hn::Add(s9, start), s11 = hn::Add(s10, start);
  for (int64_t i = 0; i < rounds; ++i) {
    s0 = hn::MulAdd(s0, half, half), s1 = hn::MulAdd(s1, half, half);
    s2 = hn::MulAdd(s2, half, half), s3 = hn::MulAdd(s3, half, half);
    s4 = hn::MulAdd(s4, half, half), s5 = hn::MulAdd(s5, half, half);
    s6 = hn::MulAdd(s6, half, half), s7 = hn::MulAdd(s7, half, half);
    s8 = hn::MulAdd(s8, half, half), s9 = hn::MulAdd(s9, half, half);
    s10 = hn::MulAdd(s10, half, half), s11 = hn::MulAdd(s11, half, half);
  }
  const auto low = hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), hn::Add(s4, s5));
  const auto high = hn::Add(hn::Add(hn::Add(s6, s7), hn::Add(s8, s9)), hn::Add(s10, s11));
  return hn::GetLane(hn::Add(low, high));
}

size_t FloatLanes() { return hn::Lanes(hn::ScalableTag<float>()); }

}  // namespace gma::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gma {
namespace {

HWY_EXPORT(ReadOnce);
HWY_EXPORT(MultiplyAdds);
HWY_EXPORT(FloatLanes);

using Clock = std::chrono::steady_clock;

constexpr size_t kBufferBytes = size_t{512} << 20;  // far beyond any cache
constexpr size_t kPieceBytes = size_t{4} << 20;     // between two looks at the clock
constexpr int64_t kRounds = 500'000;                // likewise

// Work done a second by `threads` threads together. `work(thread)` does a piece and returns how
// much it was.
template <class Work>
double Rate(int threads, double seconds, const Work& work) {
  std::barrier start(threads);
  std::vector<double> rates(threads);
  std::vector<std::thread> pool;
  for (int thread = 0; thread < threads; ++thread) {
    pool.emplace_back([&, thread] {
      start.arrive_and_wait();
      const Clock::time_point begin = Clock::now();
      double done = 0, elapsed = 0;
      while (elapsed < seconds) {
        done += work(thread);
        elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
      }
      rates[thread] = done / elapsed;
    });
  }
  for (std::thread& thread : pool) thread.join();
  double sum = 0;
  for (const double rate : rates) sum += rate;
  return sum;
}

// Where results go, so that the compiler computes them.
std::atomic<uint32_t> sink;

double ReadRate(const uint8_t* buffer, int threads, double seconds) {
  const size_t part = kBufferBytes / threads / kPieceBytes * kPieceBytes;
  std::vector<size_t> at(threads);
  return Rate(threads, seconds, [&](int thread) {
    const uint8_t* piece = buffer + thread * part + at[thread];
    sink += HWY_DYNAMIC_DISPATCH(ReadOnce)(piece, kPieceBytes);
    at[thread] = (at[thread] + kPieceBytes) % part;
    return static_cast<double>(kPieceBytes);
  });
}

double FmaRate(int threads, double seconds) {
  const double operations =
      2.0 * 12 * kRounds * static_cast<double>(HWY_DYNAMIC_DISPATCH(FloatLanes)());
  return Rate(threads, seconds, [&](int) {
    sink += static_cast<uint32_t>(HWY_DYNAMIC_DISPATCH(MultiplyAdds)(kRounds, 1e-3f));
    return operations;
  });
}

int Run() {
  void* memory =
      mmap(nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "machine_probe: no 512 MiB of memory\n");
    return 1;
  }
  madvise(memory, kBufferBytes, MADV_HUGEPAGE);
  auto* buffer = static_cast<uint8_t*>(memory);
  for (size_t i = 0; i < kBufferBytes; i += 64) buffer[i] = static_cast<uint8_t>(i >> 6);
  std::printf("{\"vector_bits\": %zu}\n", 32 * HWY_DYNAMIC_DISPATCH(FloatLanes)());
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    int threads = 0;
    double seconds = 0;
    const bool good =
        static_cast<bool>(words >> command >> threads >> seconds) && threads >= 1 && threads <= 64;
    if (good && command == "read") {
      std::printf("{\"bytes_per_second\": %.6e}\n", ReadRate(buffer, threads, seconds));
    } else if (good && command == "fma") {
      std::printf("{\"flop_per_second\": %.6e}\n", FmaRate(threads, seconds));
    } else {
      std::printf("{\"error\": \"commands: read|fma THREADS SECONDS\"}\n");
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace gma

int main() { return gma::Run(); }
#endif  // HWY_ONCE
