// Any bytes as tokenizer.json, and any bytes through the tokenizers that it accepts. An input is
// the file, a zero byte, and a text; without the zero byte it is a text for a good file.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/utf8_stream.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/unit/tokenizer/small_tokenizer.h"

namespace {

// What holds for every tokenizer: tokens are in range, user text makes no special token, and what
// comes back is the text without the bytes that have no token.
void CheckText(const gma::Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> tokens = tokenizer.EncodeText(text);
  gma::Utf8Stream stream;
  for (const int32_t token : tokens) {
    GMA_CHECK(token >= 0 && token < tokenizer.vocab_size());
    GMA_CHECK(!tokenizer.IsSpecial(token));
    stream.Push(tokenizer.TokenBytes(token));
  }
  stream.Flush();
  const std::string decoded = *tokenizer.Decode(tokens, /*skip_special=*/true);
  size_t position = 0;
  for (const char c : decoded) {
    position = text.find(c, position);
    GMA_CHECK(position != std::string_view::npos);
    ++position;
  }
  GMA_CHECK(tokenizer.Decode(tokenizer.EncodeTemplate(text), /*skip_special=*/false).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<gma::Tokenizer> good =
      *gma::Tokenizer::Parse(gma::SmallTokenizerJson({{"h", "i"}, {" ", "hi"}, {"i", "h"}}).dump());
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  if (zero == std::string_view::npos) {
    CheckText(*good, input);
    GMA_CHECK(*good->Decode(good->EncodeText(input), true) == input);
    return 0;
  }
  const auto parsed = gma::Tokenizer::Parse(input.substr(0, zero));
  if (parsed.ok()) CheckText(**parsed, input.substr(zero + 1));
  return 0;
}
