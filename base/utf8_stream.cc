#include "base/utf8_stream.h"

#include <string>
#include <string_view>

#include "base/utf8.h"

namespace gma {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string Utf8Stream::Push(std::string_view bytes) {
  held_.append(bytes);
  std::string out;
  out.reserve(held_.size());
  size_t position = 0;
  while (position < held_.size()) {
    const Utf8Char next = ReadUtf8(held_, position);
    if (next.kind == Utf8Char::Kind::kTruncated) break;
    if (next.kind == Utf8Char::Kind::kInvalid) {
      out.append(kReplacement);
    } else {
      out.append(held_, position, next.length);
    }
    position += next.length;
  }
  held_.erase(0, position);
  return out;
}

std::string Utf8Stream::Flush() {
  const bool unfinished = !held_.empty();
  held_.clear();
  return std::string(unfinished ? kReplacement : std::string_view());
}

}  // namespace gma
