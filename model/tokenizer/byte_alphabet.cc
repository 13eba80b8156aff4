#include "model/tokenizer/byte_alphabet.h"

#include <array>

#include "base/utf8.h"

namespace gma {
namespace {

constexpr int kAlphabetEnd = 0x144;  // one past the largest code point of the alphabet

struct Alphabet {
  std::array<int16_t, 256> code_point_of;
  std::array<int16_t, kAlphabetEnd> byte_of;  // -1: not of the alphabet
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet{};
  for (int16_t& byte : alphabet.byte_of) byte = -1;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const int code_point = itself ? byte : next++;
    alphabet.code_point_of[byte] = static_cast<int16_t>(code_point);
    alphabet.byte_of[code_point] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

std::string SpellingOfByte(uint8_t byte) {
  const int code_point = kAlphabet.code_point_of[byte];
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

std::optional<std::string> BytesOfSpelling(std::string_view spelling) {
  std::string bytes;
  for (size_t position = 0; position < spelling.size();) {
    const Utf8Char next = ReadUtf8(spelling, position);
    if (next.code_point < 0 || next.code_point >= kAlphabetEnd) return std::nullopt;
    const int16_t byte = kAlphabet.byte_of[next.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    position += next.length;
  }
  return bytes;
}

}  // namespace gma
