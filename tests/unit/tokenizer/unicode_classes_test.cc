#include "model/tokenizer/unicode_classes.h"

#include "gtest/gtest.h"

namespace gma {
namespace {

TEST(UnicodeClassesTest, RangesAscendAndAreDisjoint) {
  for (const auto ranges : {kLetterRanges, kNumberRanges, kSpaceRanges, kDigitRanges}) {
    ASSERT_FALSE(ranges.empty());
    int32_t last = -1;
    for (const CodePointRange& range : ranges) {
      EXPECT_GT(range.first, last);
      EXPECT_GE(range.last, range.first);
      last = range.last;
    }
    EXPECT_LT(last, 0x110000);
  }
}

TEST(UnicodeClassesTest, ShortCutForAsciiAgreesWithTheTables) {
  const auto contains = [](absl::Span<const CodePointRange> ranges, int32_t code_point) {
    for (const CodePointRange& range : ranges) {
      if (code_point >= range.first && code_point <= range.last) return true;
    }
    return false;
  };
  for (int32_t c = 0; c < 0x80; ++c) {
    const CharClass expected = contains(kLetterRanges, c)   ? CharClass::kLetter
                               : contains(kNumberRanges, c) ? CharClass::kNumber
                               : contains(kSpaceRanges, c)  ? CharClass::kSpace
                                                            : CharClass::kOther;
    EXPECT_EQ(ClassOf(c), expected) << c;
    EXPECT_EQ(IsDigit(c), contains(kDigitRanges, c)) << c;
  }
}

TEST(UnicodeClassesTest, BytesThatAreNoCharacterAreSigns) {
  EXPECT_EQ(ClassOf(-1), CharClass::kOther);
  EXPECT_FALSE(IsDigit(-1));
}

}  // namespace
}  // namespace gma
