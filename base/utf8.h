// Strict UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing beyond U+10FFFF), one character
// at a time. Shared by the splitter of prompts and the stream of answers.
#ifndef GMA_BASE_UTF8_H_
#define GMA_BASE_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace gma {

struct Utf8Char {
  enum class Kind {
    kCharacter,  // `code_point` is set
    kInvalid,    // `length` bytes that no further byte could turn into a character
    kTruncated,  // the text ends inside a character; `length` is what there is of it, 1 to 3
  };
  Kind kind;
  int32_t code_point;  // -1 unless kCharacter
  size_t length;       // bytes taken, at least 1
};

// Reads the character that starts at `position`. A wrong sequence is taken up to the first byte
// that does not fit (Unicode's "maximal subpart", the practice of Python and Rust).
// REQUIRES: position < text.size().
inline Utf8Char ReadUtf8(std::string_view text, size_t position) {
  using Kind = Utf8Char::Kind;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(position);
  if (lead < 0x80) return {Kind::kCharacter, lead, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Kind::kInvalid, -1, 1};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // Only the second byte has a narrower range than 80..BF; it is what keeps out overlong forms,
  // surrogates and code points that are too large.
  uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  int32_t code_point = lead & (0x7F >> length);
  for (size_t i = 1; i < length; ++i) {
    if (position + i == text.size()) return {Kind::kTruncated, -1, i};
    const uint8_t next = byte(position + i);
    if (next < low || next > high) return {Kind::kInvalid, -1, i};
    code_point = code_point << 6 | (next & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {Kind::kCharacter, code_point, length};
}

}  // namespace gma

#endif  // GMA_BASE_UTF8_H_
