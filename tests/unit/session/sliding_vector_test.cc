#include "server/session/sliding_vector.h"

#include <deque>
#include <memory>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gma {
namespace {

TEST(SlidingVectorTest, HoldsWhatADequeHolds) {
  SlidingVector<int> values;
  std::deque<int> expected;
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    const uint32_t what = random() % 100;
    // Grows for a while, then slides.
    if (expected.empty() || what < (i < 5000 ? 80U : 50U)) {
      values.push_back(i);
      expected.push_back(i);
    } else if (what < 98) {
      values.pop_front();
      expected.pop_front();
    } else if (what == 98) {
      values.pop_back();
      expected.pop_back();
    } else {
      values.shrink(expected.size() - expected.size() / 16);
      expected.resize(expected.size() - expected.size() / 16);
    }
    ASSERT_EQ(values.size(), expected.size());
    ASSERT_EQ(values.empty(), expected.empty());
    if (expected.empty()) continue;
    ASSERT_EQ(values.front(), expected.front());
    ASSERT_EQ(values.back(), expected.back());
    const size_t at = random() % expected.size();
    ASSERT_EQ(values[at], expected[at]);
    if (i % 500 != 0) continue;
    if (i % 1000 == 0) values.shrink_to_fit();
    ASSERT_THAT(std::vector<int>(values.begin(), values.end()),
                ::testing::ElementsAreArray(expected));
  }
}

TEST(SlidingVectorTest, WhatIsForgottenGoesAtOnce) {
  SlidingVector<std::shared_ptr<int>> values;
  const auto held = std::make_shared<int>(1);
  for (int i = 0; i < 3; ++i) values.push_back(held);
  values.pop_front();
  EXPECT_EQ(held.use_count(), 3);
  values.clear();
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace gma
