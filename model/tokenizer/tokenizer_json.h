// Reads `tokenizer.json` of Hugging Face `tokenizers` and refuses, by name, whatever the encoder
// of this folder would do differently.
#ifndef GMA_MODEL_TOKENIZER_TOKENIZER_JSON_H_
#define GMA_MODEL_TOKENIZER_TOKENIZER_JSON_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/bpe.h"

namespace gma {

struct TokenizerSpec {
  std::vector<std::string> token_bytes;  // by id; special tokens: their text
  std::vector<bool> special;             // by id
  BpeRules rules;                        // no rule yields a special token
  bool isolate_digits;                   // Digits(individual) stands before ByteLevel
};

// Ids are dense: every id in [0, token_bytes.size()) is in the file once.
// ERRORS: kInvalidArgument naming the key or token and what is wrong or not supported.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view json);

}  // namespace gma

#endif  // GMA_MODEL_TOKENIZER_TOKENIZER_JSON_H_
