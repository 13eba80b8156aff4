// Cuts a text into the pieces inside which byte-level BPE merges: the pre-tokenizers Digits
// (individual) and ByteLevel of Hugging Face `tokenizers`, as one scanner.
#ifndef GMA_MODEL_TOKENIZER_SPLIT_H_
#define GMA_MODEL_TOKENIZER_SPLIT_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "model/tokenizer/unicode_classes.h"

namespace gma {

// Yields the matches of the GPT-2 pattern from left to right; together they are the whole text:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// With `isolate_digits` every digit is a piece of its own, and what lies between two digits is
// split as if it were a text of its own (so "a  1" is "a", "  ", "1").
// Bytes that are no UTF-8 are of the class of signs. Linear: every character is read at most
// three times.
// THREADS: one thread; borrows the text.
class PieceSplitter {
 public:
  PieceSplitter(std::string_view text, bool isolate_digits)
      : text_(text), isolate_digits_(isolate_digits) {}

  // The next piece, never empty; an empty view at the end of the text.
  std::string_view Next();
  // Characters read so far: the work done.
  int64_t characters_read() const { return characters_read_; }

 private:
  struct Char {
    CharClass char_class;
    bool isolated;  // a digit that stands alone
    size_t length;  // 0 at the end of the text
  };
  Char Read(size_t position);
  // End of the run of characters of `char_class` that starts at `position`.
  size_t EndOfRun(size_t position, CharClass char_class);
  // Length of 's 't 're 've 'm 'll 'd at the current position; 0 if there is none.
  size_t ContractionLength() const;
  std::string_view Take(size_t end);

  const std::string_view text_;
  const bool isolate_digits_;
  size_t position_ = 0;
  int64_t characters_read_ = 0;
};

}  // namespace gma

#endif  // GMA_MODEL_TOKENIZER_SPLIT_H_
