#include "server/session/prefix_cache.h"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gma {
namespace {

using ::testing::Each;

constexpr size_t kRow = 1000;
constexpr uint32_t kAlice = 3, kBob = 7;

// `count` tokens from `first` on.
std::vector<int32_t> Text(int32_t first, size_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}
size_t BytesOf(size_t tokens) { return kRow + tokens * sizeof(int32_t); }

class PrefixCacheTest : public ::testing::Test {
 protected:
  static void Put(PrefixCache& cache, uint32_t owner, std::vector<int32_t> tokens, uint8_t fill) {
    cache.Put(owner, std::move(tokens), std::vector<uint8_t>(kRow, fill), nullptr);
  }
  // The fill of the row that is found; 0: none.
  static int Find(PrefixCache& cache, uint32_t owner, const std::vector<int32_t>& text) {
    const PrefixCache::Match match = cache.Find(owner, text);
    if (match.tokens == 0) return 0;
    EXPECT_EQ(match.row->bytes().size(), kRow);
    EXPECT_THAT(match.row->bytes(), Each(match.row->bytes()[0]));
    return match.row->bytes()[0];
  }

  PrefixCache cache_{10 * BytesOf(20), kRow};
};

TEST_F(PrefixCacheTest, TheLongestBeginningIsFound) {
  Put(cache_, kAlice, Text(0, 16), 1);
  Put(cache_, kAlice, Text(0, 30), 2);
  Put(cache_, kAlice, Text(5, 30), 3);
  EXPECT_EQ(Find(cache_, kAlice, Text(0, 15)), 0);
  EXPECT_EQ(Find(cache_, kAlice, Text(0, 16)), 1);
  EXPECT_EQ(Find(cache_, kAlice, Text(0, 29)), 1);
  EXPECT_EQ(Find(cache_, kAlice, Text(0, 30)), 2);
  EXPECT_EQ(Find(cache_, kAlice, Text(0, 1000)), 2);
  EXPECT_EQ(cache_.Find(kAlice, Text(0, 1000)).tokens, 30u);
  EXPECT_EQ(Find(cache_, kAlice, Text(1, 1000)), 0);
  EXPECT_EQ(Find(cache_, kAlice, {}), 0);
}

TEST_F(PrefixCacheTest, OneOtherTokenAnywhereIsAnotherText) {
  Put(cache_, kAlice, Text(0, 40), 1);
  for (size_t i = 0; i < 40; ++i) {
    std::vector<int32_t> text = Text(0, 50);
    text[i] ^= 1;
    EXPECT_EQ(Find(cache_, kAlice, text), 0) << i;
  }
}

TEST_F(PrefixCacheTest, OwnersNeverShare) {
  Put(cache_, kAlice, Text(0, 20), 1);
  EXPECT_EQ(Find(cache_, kBob, Text(0, 20)), 0);
  Put(cache_, kBob, Text(0, 20), 2);
  EXPECT_EQ(Find(cache_, kAlice, Text(0, 20)), 1);
  EXPECT_EQ(Find(cache_, kBob, Text(0, 20)), 2);
}

TEST_F(PrefixCacheTest, ShortTextsAreNotKeptAndTheFirstOfTwoStays) {
  Put(cache_, kAlice, Text(0, PrefixCache::kLeastTokens - 1), 1);
  EXPECT_EQ(cache_.bytes(), 0u);
  Put(cache_, kAlice, Text(0, PrefixCache::kLeastTokens), 2);
  Put(cache_, kAlice, Text(0, PrefixCache::kLeastTokens), 3);
  EXPECT_EQ(cache_.bytes(), BytesOf(PrefixCache::kLeastTokens));
  EXPECT_EQ(Find(cache_, kAlice, Text(0, 16)), 2);
}

TEST_F(PrefixCacheTest, ACopyThatThereIsIsSharedAndNoLongerCountedWhereItCameFrom) {
  CheckpointTotals totals;
  auto row = std::make_shared<SavedRow>(std::vector<uint8_t>(kRow, 9), totals);
  cache_.Put(kAlice, Text(0, 20), row->bytes(), row);
  EXPECT_EQ(cache_.Find(kAlice, Text(0, 20)).row->bytes().data(), row->bytes().data());
  row.reset();
  EXPECT_EQ(totals.bytes, 0);
  EXPECT_EQ(totals.count, 0);
  EXPECT_EQ(Find(cache_, kAlice, Text(0, 20)), 9);
}

TEST_F(PrefixCacheTest, WhatWasNotUsedForLongestGoesFirst) {
  for (int32_t i = 0; i < 10; ++i) {
    Put(cache_, kAlice, Text(100 * i, 20), static_cast<uint8_t>(i + 1));
  }
  EXPECT_EQ(cache_.bytes(), 10 * BytesOf(20));
  EXPECT_EQ(Find(cache_, kAlice, Text(0, 20)), 1);  // used now
  Put(cache_, kAlice, Text(100, 20), 99);           // likewise: it is there
  Put(cache_, kAlice, Text(5000, 20), 50);
  EXPECT_EQ(cache_.bytes(), 10 * BytesOf(20));
  EXPECT_EQ(Find(cache_, kAlice, Text(200, 20)), 0);
  for (const int32_t there : {0, 1, 3, 4, 5, 6, 7, 8, 9}) {
    EXPECT_EQ(Find(cache_, kAlice, Text(100 * there, 20)), there + 1);
  }
}

TEST_F(PrefixCacheTest, WhoHoldsMostGivesFirst) {
  for (int32_t i = 0; i < 4; ++i) Put(cache_, kBob, Text(100 * i, 20), 1);
  // Alice takes what is free, and then her own: Bob keeps his.
  for (int32_t i = 0; i < 100; ++i) Put(cache_, kAlice, Text(100 * i, 20), 2);
  EXPECT_EQ(cache_.bytes_of(kBob), 4 * BytesOf(20));
  EXPECT_EQ(cache_.bytes_of(kAlice), 6 * BytesOf(20));
  // Bob gets from her until both hold the same, and then gives his own.
  for (int32_t i = 4; i < 100; ++i) Put(cache_, kBob, Text(100 * i, 20), 3);
  EXPECT_EQ(cache_.bytes_of(kBob), 5 * BytesOf(20));
  EXPECT_EQ(cache_.bytes_of(kAlice), 5 * BytesOf(20));
}

TEST_F(PrefixCacheTest, NothingIsKeptThatDoesNotFit) {
  PrefixCache small(BytesOf(20), kRow);
  Put(small, kAlice, Text(0, 21), 1);
  EXPECT_EQ(small.bytes(), 0u);
  Put(small, kAlice, Text(0, 20), 1);
  EXPECT_EQ(small.bytes(), BytesOf(20));
  EXPECT_TRUE(small.on());
  EXPECT_FALSE(PrefixCache(kRow - 1, kRow).on());
  EXPECT_FALSE(PrefixCache(0, kRow).on());
}

// Against a plain list of all that was put, with little room to err: two letters, few lengths.
TEST_F(PrefixCacheTest, RandomTextsAgreeWithASearchThroughAll) {
  std::mt19937 random(1);
  PrefixCache cache(1 << 20, 8);
  std::map<std::vector<int32_t>, uint64_t> all[2];
  const auto text = [&](size_t length) {
    std::vector<int32_t> tokens(length, 0);
    for (size_t i = 16; i < length; ++i) tokens[i] = static_cast<int32_t>(random() % 2);
    return tokens;
  };
  for (uint64_t i = 1; i < 400; ++i) {
    const uint32_t owner = random() % 2;
    const std::vector<int32_t> tokens = text(16 + random() % 10);
    const auto* bytes = reinterpret_cast<const uint8_t*>(&i);
    cache.Put(owner, tokens, absl::MakeConstSpan(bytes, sizeof(i)), nullptr);
    all[owner].try_emplace(tokens, i);

    const std::vector<int32_t> wanted = text(16 + random() % 14);
    std::pair<size_t, uint64_t> expected(0, 0);
    for (const auto& [there, number] : all[owner]) {
      if (there.size() > wanted.size()) continue;
      if (!std::equal(there.begin(), there.end(), wanted.begin())) continue;
      expected = std::max(expected, std::pair(there.size(), number));
    }
    const PrefixCache::Match match = cache.Find(owner, wanted);
    ASSERT_EQ(match.tokens, expected.first);
    if (match.tokens > 0) {
      ASSERT_EQ(*reinterpret_cast<const uint64_t*>(match.row->bytes().data()), expected.second);
    }
  }
}

}  // namespace
}  // namespace gma
