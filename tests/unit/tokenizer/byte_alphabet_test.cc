#include "model/tokenizer/byte_alphabet.h"

#include <optional>
#include <string>

#include "gtest/gtest.h"

namespace gma {
namespace {

TEST(ByteAlphabetTest, EveryByteHasItsOwnSpelling) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string spelling = SpellingOfByte(static_cast<uint8_t>(byte));
    EXPECT_EQ(BytesOfSpelling(spelling), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(SpellingOfByte(' '), "Ġ");
  EXPECT_EQ(SpellingOfByte('\n'), "Ċ");
  EXPECT_EQ(SpellingOfByte('a'), "a");
  EXPECT_EQ(SpellingOfByte(0xAD), "\xC5\x83");  // U+0143, the last of the alphabet
}

TEST(ByteAlphabetTest, OtherCharactersHaveNoBytes) {
  EXPECT_EQ(BytesOfSpelling("a b"), std::nullopt);
  EXPECT_EQ(BytesOfSpelling("\xC2\xAD"), std::nullopt);
  EXPECT_EQ(BytesOfSpelling("\xC5\x84"), std::nullopt);  // U+0144
  EXPECT_EQ(BytesOfSpelling("\xFF"), std::nullopt);
}

}  // namespace
}  // namespace gma
