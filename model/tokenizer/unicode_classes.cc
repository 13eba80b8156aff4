#include "model/tokenizer/unicode_classes.h"

#include <algorithm>

namespace gma {
namespace {

bool Contains(absl::Span<const CodePointRange> ranges, int32_t code_point) {
  const auto after = std::upper_bound(
      ranges.begin(), ranges.end(), code_point,
      [](int32_t value, const CodePointRange& range) { return value < range.first; });
  return after != ranges.begin() && code_point <= std::prev(after)->last;
}

bool IsAsciiLetter(int32_t c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }
bool IsAsciiDigit(int32_t c) { return c >= '0' && c <= '9'; }

}  // namespace

CharClass ClassOf(int32_t code_point) {
  if (code_point < 0x80) {  // most text: no search
    if (code_point < 0) return CharClass::kOther;
    if (IsAsciiLetter(code_point)) return CharClass::kLetter;
    if (code_point == ' ' || (code_point >= '\t' && code_point <= '\r')) return CharClass::kSpace;
    return IsAsciiDigit(code_point) ? CharClass::kNumber : CharClass::kOther;
  }
  if (Contains(kLetterRanges, code_point)) return CharClass::kLetter;
  if (Contains(kNumberRanges, code_point)) return CharClass::kNumber;
  return Contains(kSpaceRanges, code_point) ? CharClass::kSpace : CharClass::kOther;
}

bool IsDigit(int32_t code_point) {
  return code_point < 0x80 ? IsAsciiDigit(code_point) : Contains(kDigitRanges, code_point);
}

}  // namespace gma
