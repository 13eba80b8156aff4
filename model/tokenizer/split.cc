#include "model/tokenizer/split.h"

#include "base/utf8.h"

namespace gma {

PieceSplitter::Char PieceSplitter::Read(size_t position) {
  if (position == text_.size()) return {CharClass::kOther, false, 0};
  ++characters_read_;
  const Utf8Char next = ReadUtf8(text_, position);
  return {ClassOf(next.code_point), isolate_digits_ && IsDigit(next.code_point), next.length};
}

size_t PieceSplitter::EndOfRun(size_t position, CharClass char_class) {
  while (true) {
    const Char next = Read(position);
    if (next.length == 0 || next.isolated || next.char_class != char_class) return position;
    position += next.length;
  }
}

size_t PieceSplitter::ContractionLength() const {
  const std::string_view rest = text_.substr(position_, 3);
  if (rest.size() < 2 || rest[0] != '\'') return 0;
  switch (rest[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return rest.size() == 3 && rest[2] == 'e' ? 3 : 0;
    case 'l':
      return rest.size() == 3 && rest[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

std::string_view PieceSplitter::Take(size_t end) {
  const std::string_view piece = text_.substr(position_, end - position_);
  position_ = end;
  return piece;
}

std::string_view PieceSplitter::Next() {
  const Char first = Read(position_);
  if (first.length == 0) return {};
  const size_t second_position = position_ + first.length;
  if (first.isolated) return Take(second_position);
  if (const size_t length = ContractionLength(); length != 0) return Take(position_ + length);
  if (first.char_class != CharClass::kSpace) {
    return Take(EndOfRun(second_position, first.char_class));
  }
  if (text_[position_] == ' ') {  // only the plain space may lead a word
    const Char second = Read(second_position);
    const bool joins = second.length != 0 && !second.isolated;
    if (joins && second.char_class != CharClass::kSpace) {
      return Take(EndOfRun(second_position + second.length, second.char_class));
    }
  }
  // \s+(?!\S) gives the last space of the run back to the word after it, if there is one and the
  // run is longer than that.
  size_t end = second_position;
  size_t last = position_;
  while (true) {
    const Char next = Read(end);
    if (next.length == 0 || next.isolated) return Take(end);
    if (next.char_class != CharClass::kSpace) return Take(last == position_ ? end : last);
    last = end;
    end += next.length;
  }
}

}  // namespace gma
