// The byte alphabet of GPT-2, in which byte-level vocabularies spell their tokens: each byte is one
// printable character. Bytes 21..7E, A1..AC and AE..FF stand for themselves (as code points); the
// other 68, in ascending order, are U+0100 to U+0143.
#ifndef GMA_MODEL_TOKENIZER_BYTE_ALPHABET_H_
#define GMA_MODEL_TOKENIZER_BYTE_ALPHABET_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace gma {

// The character of `byte`, in UTF-8.
std::string SpellingOfByte(uint8_t byte);

// The bytes that `spelling` stands for; nothing if a character of it is not of the alphabet.
std::optional<std::string> BytesOfSpelling(std::string_view spelling);

}  // namespace gma

#endif  // GMA_MODEL_TOKENIZER_BYTE_ALPHABET_H_
