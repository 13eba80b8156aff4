#include "model/tokenizer/bpe.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gma {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Every byte is its own token; each rule makes the next token from 256 on.
BpeRules Rules(const std::vector<std::pair<int32_t, int32_t>>& merges) {
  BpeRules rules;
  for (int32_t byte = 0; byte < 256; ++byte) rules.byte_tokens[byte] = byte;
  int32_t rank = 0;
  for (const auto& [left, right] : merges) {
    rules.merges[BpeRules::PairKey(left, right)] = {rank, 256 + rank};
    ++rank;
  }
  return rules;
}

std::vector<int32_t> Encode(const BpeRules& rules, std::string_view piece) {
  std::vector<int32_t> tokens;
  BpeMerger(rules).Encode(piece, tokens);
  return tokens;
}

// The definition: merge the leftmost pair of the lowest rank until there is none. Quadratic.
std::vector<int32_t> EncodeByDefinition(const BpeRules& rules, std::string_view piece) {
  std::vector<int32_t> tokens;
  for (const char c : piece) tokens.push_back(rules.byte_tokens[static_cast<uint8_t>(c)]);
  while (true) {
    const MergeRule* best = nullptr;
    size_t where = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto rule = rules.merges.find(BpeRules::PairKey(tokens[i], tokens[i + 1]));
      if (rule == rules.merges.end()) continue;
      if (best != nullptr && rule->second.rank >= best->rank) continue;
      best = &rule->second;
      where = i;
    }
    if (best == nullptr) return tokens;
    tokens[where] = best->result;
    tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(where) + 1);
  }
}

TEST(BpeMergerTest, LowestRankMergesFirst) {
  const BpeRules rules = Rules({{'b', 'c'}, {'a', 'b'}});
  EXPECT_THAT(Encode(rules, "abc"), ElementsAre('a', 256));
}

TEST(BpeMergerTest, OfEqualRanksTheLeftmostMergesFirst) {
  const BpeRules rules = Rules({{'a', 'a'}});
  EXPECT_THAT(Encode(rules, "aaa"), ElementsAre(256, 'a'));
}

TEST(BpeMergerTest, MergedTokensMergeOn) {
  const BpeRules rules = Rules({{'a', 'b'}, {256, 'c'}, {257, 256}});
  EXPECT_THAT(Encode(rules, "abcab"), ElementsAre(258));
}

TEST(BpeMergerTest, BytesWithoutATokenAreLeftOutBeforeMerging) {
  BpeRules rules = Rules({{'a', 'b'}});
  rules.byte_tokens[4] = BpeRules::kNoToken;
  EXPECT_THAT(Encode(rules,
                     "a\x04"
                     "b"),
              ElementsAre(256));
  EXPECT_THAT(Encode(rules, "\x04\x04"), IsEmpty());
}

TEST(BpeMergerTest, EqualsTheDefinitionOnRandomRulesAndTexts) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::pair<int32_t, int32_t>> merges;
    const auto any = [&](size_t made) {
      const size_t pick = random() % (3 + made);
      return static_cast<int32_t>(pick < 3 ? 'a' + pick : 256 + pick - 3);
    };
    for (size_t i = 0; i < 12; ++i) merges.emplace_back(any(i), any(i));
    const BpeRules rules = Rules(merges);
    for (int text = 0; text < 20; ++text) {
      std::string piece(random() % 60, 'a');
      for (char& c : piece) c = static_cast<char>('a' + random() % 3);
      ASSERT_EQ(Encode(rules, piece), EncodeByDefinition(rules, piece)) << piece;
    }
  }
}

TEST(BpeMergerTest, WorkIsLinearInThePiece) {
  // Powers of two of 'a': every symbol of a long run merges again and again.
  const BpeRules rules =
      Rules({{'a', 'a'}, {256, 256}, {257, 257}, {258, 258}, {259, 259}, {260, 260}});
  constexpr int64_t kLength = 1 << 20;
  BpeMerger merger(rules);
  std::vector<int32_t> tokens;
  merger.Encode(std::string(kLength, 'a'), tokens);
  EXPECT_EQ(tokens, std::vector<int32_t>(kLength / 64, 261));
  EXPECT_LE(merger.pairs_tried(), 3 * kLength);
}

}  // namespace
}  // namespace gma
