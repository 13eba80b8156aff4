// Character classes of the GPT-2 split pattern, as Hugging Face `tokenizers` sees them.
// The tables in unicode_tables.cc are written by tools/unicode_tables.py.
#ifndef GMA_MODEL_TOKENIZER_UNICODE_CLASSES_H_
#define GMA_MODEL_TOKENIZER_UNICODE_CLASSES_H_

#include <cstdint>

#include "absl/types/span.h"

namespace gma {

struct CodePointRange {
  int32_t first, last;  // both inside the range
};

// Ascending, disjoint.
extern const absl::Span<const CodePointRange> kLetterRanges;  // \p{L}
extern const absl::Span<const CodePointRange> kNumberRanges;  // \p{N}
extern const absl::Span<const CodePointRange> kSpaceRanges;   // \s
// What the pre-tokenizer Digits sets apart. Not \p{N}: `tokenizers` takes these from a newer
// edition of Unicode than its regular expressions.
extern const absl::Span<const CodePointRange> kDigitRanges;

enum class CharClass : uint8_t { kLetter, kNumber, kSpace, kOther };

// Class of a code point in the pattern; -1 (bytes that are no character) is kOther, as U+FFFD is.
CharClass ClassOf(int32_t code_point);
// True for what Digits sets apart.
bool IsDigit(int32_t code_point);

}  // namespace gma

#endif  // GMA_MODEL_TOKENIZER_UNICODE_CLASSES_H_
