#include "model/state/row_bytes.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace gma {
namespace {

constexpr size_t kRow = (3 << 20) + 4160;  // bytes, as rows are: no whole number of pages

size_t ResidentBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  size_t kilobytes = 0;
  while (status >> word && word != "RssAnon:") {
  }
  status >> kilobytes;
  return kilobytes * 1024;
}

bool AllAre(const void* data, size_t bytes, uint8_t value) {
  const auto* const first = static_cast<const uint8_t*>(data);
  return std::all_of(first, first + bytes, [value](uint8_t byte) { return byte == value; });
}

TEST(RowBytes, OneThatWasFreedComesBackZeroed) {
  for (int i = 0; i < 3 * kSpareRows; ++i) {
    void* const row = AllocateRowBytes(kRow);
    ASSERT_TRUE(AllAre(row, kRow, 0)) << i;
    std::memset(row, 0xab, kRow);
    FreeRowBytes(row, kRow);
  }
}

TEST(RowBytes, ARowIsAsLongAsItWasAskedFor) {
  // Small ones, ones of their own pages, and one size after the other in the same places.
  std::vector<RowBytes> kept;
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{1} << 20, kRow, 2 * kRow}) {
    for (uint8_t i = 1; i <= kSpareRows + 2; ++i) {
      kept.emplace_back(bytes, i);
      RowBytes(bytes, 0xff).swap(kept.emplace_back());
      kept.pop_back();
    }
  }
  for (size_t i = 0; i < kept.size(); ++i) {
    const auto value = static_cast<uint8_t>(1 + i % (kSpareRows + 2));
    EXPECT_TRUE(AllAre(kept[i].data(), kept[i].size(), value)) << i;
  }
}

TEST(RowBytes, WhatIsFreedGoesBackToTheSystem) {
#ifdef GMA_POISON_STATE
  GTEST_SKIP() << "a sanitizer's memory is resident too";
#endif
  constexpr size_t kRows = 40;
  const size_t before = ResidentBytes();
  std::vector<RowBytes> rows;
  std::vector<std::vector<uint8_t>> between;  // that a heap could not give back around
  for (size_t i = 0; i < kRows; ++i) {
    rows.emplace_back(kRow, uint8_t{1});
    between.emplace_back(1000, uint8_t{1});
  }
  EXPECT_GT(ResidentBytes(), before + (kRows - kSpareRows - 1) * kRow);
  rows.clear();
  EXPECT_LT(ResidentBytes(), before + (kSpareRows + 1) * kRow);
}

TEST(RowBytes, ThreadsShareThem) {
  std::vector<std::thread> threads;
  for (uint8_t number = 1; number <= 4; ++number) {
    threads.emplace_back([number] {
      for (int i = 0; i < 50; ++i) {
        const size_t bytes = i % 3 == 0 ? kRow : size_t{1} << 20;
        const RowBytes one(bytes, number), two(bytes, number);
        ASSERT_TRUE(AllAre(one.data(), bytes, number));
        ASSERT_TRUE(AllAre(two.data(), bytes, number));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace gma
