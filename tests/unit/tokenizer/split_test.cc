#include "model/tokenizer/split.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gma {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> Split(std::string_view text, bool isolate_digits = false) {
  std::vector<std::string> pieces;
  PieceSplitter splitter(text, isolate_digits);
  for (std::string_view piece = splitter.Next(); !piece.empty(); piece = splitter.Next()) {
    pieces.emplace_back(piece);
  }
  return pieces;
}

TEST(PieceSplitterTest, EmptyTextHasNoPieces) { EXPECT_THAT(Split(""), IsEmpty()); }

TEST(PieceSplitterTest, OneSpaceLeadsAWordANumberOrASign) {
  EXPECT_THAT(Split("Hello world 42 + x"), ElementsAre("Hello", " world", " 42", " +", " x"));
}

TEST(PieceSplitterTest, LettersNumbersAndSignsPart) {
  EXPECT_THAT(Split("ab12!?c"), ElementsAre("ab", "12", "!?", "c"));
}

TEST(PieceSplitterTest, ContractionsAreLowerCaseAndStartAPiece) {
  EXPECT_THAT(Split("I'm you're we've she'll he'd it's can't"),
              ElementsAre("I", "'m", " you", "'re", " we", "'ve", " she", "'ll", " he", "'d", " it",
                          "'s", " can", "'t"));
  EXPECT_THAT(Split("IT'S"), ElementsAre("IT", "'", "S"));
  EXPECT_THAT(Split("''s"), ElementsAre("''", "s"));
  EXPECT_THAT(Split("x 's"), ElementsAre("x", " '", "s"));
  EXPECT_THAT(Split("'r 'v 'l"), ElementsAre("'", "r", " '", "v", " '", "l"));
  EXPECT_THAT(Split("'sun"), ElementsAre("'s", "un"));
}

TEST(PieceSplitterTest, RunOfSpacesGivesItsLastToTheWordAfterIt) {
  EXPECT_THAT(Split("a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(Split("a \n b"), ElementsAre("a", " \n", " b"));
  EXPECT_THAT(Split("a\n\nb"), ElementsAre("a", "\n", "\n", "b"));
  EXPECT_THAT(Split("a\nb"), ElementsAre("a", "\n", "b"));
  EXPECT_THAT(Split("a   "), ElementsAre("a", "   "));
  EXPECT_THAT(Split("  a"), ElementsAre(" ", " a"));
}

TEST(PieceSplitterTest, OnlyThePlainSpaceLeadsAWord) {
  EXPECT_THAT(Split("a\xC2\xA0"
                    "b\tc"),
              ElementsAre("a", "\xC2\xA0", "b", "\t", "c"));
}

TEST(PieceSplitterTest, ClassesAreThoseOfUnicode) {
  EXPECT_THAT(Split("né中文²٣!"), ElementsAre("né中文", "²٣", "!"));
  EXPECT_THAT(Split("a\xE3\x80\x80\xE2\x80\x83"
                    "b"),  // ideographic space, em space
              ElementsAre("a", "\xE3\x80\x80", "\xE2\x80\x83", "b"));
  EXPECT_THAT(Split("e\xCC\x81x"),
              ElementsAre("e", "\xCC\x81", "x"));  // a combining mark is a sign
}

TEST(PieceSplitterTest, IsolatedDigitsStandAlone) {
  EXPECT_THAT(Split("in 1984!", true), ElementsAre("in", " ", "1", "9", "8", "4", "!"));
  EXPECT_THAT(Split("²٣", true), ElementsAre("²", "٣"));
}

TEST(PieceSplitterTest, TextBeforeAnIsolatedDigitEndsThere) {
  EXPECT_THAT(Split("a   1", true), ElementsAre("a", "   ", "1"));
  EXPECT_THAT(Split("a   1", false), ElementsAre("a", "  ", " 1"));
}

TEST(PieceSplitterTest, BytesThatAreNoCharacterAreSigns) {
  EXPECT_THAT(Split("a\xFF\xC0!b"), ElementsAre("a", "\xFF\xC0!", "b"));
  EXPECT_THAT(Split("a \xE4\xB8"), ElementsAre("a", " \xE4\xB8"));
}

TEST(PieceSplitterTest, PiecesOfAnyBytesAreTheWholeText) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 40, '\0');
    for (char& c : text) c = static_cast<char>(random() % 4 == 0 ? ' ' : random());
    for (const bool isolate : {false, true}) {
      std::string joined;
      for (const std::string& piece : Split(text, isolate)) joined += piece;
      ASSERT_EQ(joined, text);
    }
  }
}

TEST(PieceSplitterTest, WorkIsLinearInTheText) {
  constexpr int64_t kLength = 1 << 18;
  std::string mixed, spaced;
  while (mixed.size() < kLength) mixed += " \n a'1 ";
  while (spaced.size() < kLength) spaced += " a";
  for (const std::string& text :
       {std::string(kLength, 'a'), std::string(kLength, ' '), std::string(kLength, ' ') + "x",
        std::string(kLength, '\''), std::string(kLength, '\xFF'), mixed, spaced}) {
    PieceSplitter splitter(text, true);
    while (!splitter.Next().empty()) continue;
    EXPECT_LE(splitter.characters_read(), 3 * static_cast<int64_t>(text.size()) + 1)
        << text.substr(0, 8);
  }
}

}  // namespace
}  // namespace gma
