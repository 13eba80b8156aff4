#include "base/utf8_stream.h"

#include <random>
#include <string>
#include <string_view>

#include "base/utf8.h"
#include "gtest/gtest.h"

namespace gma {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// True if `text` is whole characters.
bool IsUtf8(std::string_view text) {
  for (size_t position = 0; position < text.size();) {
    const Utf8Char next = ReadUtf8(text, position);
    if (next.kind != Utf8Char::Kind::kCharacter) return false;
    position += next.length;
  }
  return true;
}

TEST(Utf8StreamTest, HoldsACharacterBackUntilItIsWhole) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xE4"), "a");
  EXPECT_EQ(stream.Push("\xB8"), "");
  EXPECT_EQ(stream.Push("\xAD!"), "中!");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Utf8StreamTest, UnfinishedCharacterIsReplacedAtTheEnd) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xF0\x9F\x98"), "a");
  EXPECT_EQ(stream.Flush(), kReplacement);
  EXPECT_EQ(stream.Flush(), "");
  EXPECT_EQ(stream.Push("b"), "b");
}

TEST(Utf8StreamTest, BytesThatCannotBecomeACharacterAreReplaced) {
  const std::string r = kReplacement;
  const std::pair<std::string, std::string> cases[] = {
      {"\xFFx", r + "x"},
      {"\x80\x80", r + r},
      {"\xC0\xAF", r + r},                  // overlong
      {"\xE0\x80\x80", r + r + r},          // overlong
      {"\xED\xA0\x80", r + r + r},          // surrogate
      {"\xF4\x90\x80\x80", r + r + r + r},  // beyond U+10FFFF
      {"\xE4\xB8x", r + "x"},               // cut short by another character
      {"\xF0\x9F\x98\xE4\xB8\xAD", r + "中"},
  };
  for (const auto& [bytes, text] : cases) {
    Utf8Stream stream;
    std::string out = stream.Push(bytes);
    out += stream.Flush();
    EXPECT_EQ(out, text);
  }
}

// Pushes `bytes` in random pieces; fails unless each answer is whole characters.
std::string PushInPieces(std::string_view bytes, std::mt19937& random) {
  Utf8Stream stream;
  std::string out;
  while (!bytes.empty()) {
    const size_t size = std::min<size_t>(bytes.size(), random() % 4);
    const std::string text = stream.Push(bytes.substr(0, size));
    EXPECT_TRUE(IsUtf8(text));
    out += text;
    bytes.remove_prefix(size);
  }
  return out + stream.Flush();
}

TEST(Utf8StreamTest, TextComesOutAsItWentInUnderAnyCut) {
  const std::string characters[] = {"a", "é", "中", "😀", "\xF4\x8F\xBF\xBF", "\xEF\xBF\xBF", "߿"};
  std::mt19937 random(5);
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    for (size_t i = random() % 12; i > 0; --i) text += characters[random() % 7];
    ASSERT_EQ(PushInPieces(text, random), text);
  }
}

TEST(Utf8StreamTest, AnyBytesGiveTheSameTextUnderAnyCut) {
  std::mt19937 random(6);
  for (int round = 0; round < 5000; ++round) {
    std::string bytes(random() % 12, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % 3 == 0 ? 'a' : 0x80 | random());
    Utf8Stream whole;
    std::string expected = whole.Push(bytes);
    expected += whole.Flush();
    ASSERT_TRUE(IsUtf8(expected));
    ASSERT_EQ(PushInPieces(bytes, random), expected);
  }
}

}  // namespace
}  // namespace gma
