// Byte-level BPE over a Hugging Face `tokenizer.json`: lossless on any bytes its vocabulary can
// spell, linear-time splitting by a hand-written scanner (no regex engine ever sees a prompt).
#ifndef GMA_MODEL_TOKENIZER_TOKENIZER_H_
#define GMA_MODEL_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace gma {

// THREADS: immutable after Load; all methods may be called from any thread.
class Tokenizer {
 public:
  // Reads `<directory>/tokenizer.json`. Supported: model BPE with byte-level pre-tokenisation
  // (ByteLevel without prefix space, alone or after Digits), with the GPT-2 split pattern.
  // ERRORS: kNotFound without the file; kInvalidArgument naming what is wrong or not supported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& directory);
  // The same from the text of a tokenizer.json (at most 64 MiB).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(std::string_view json);

  virtual ~Tokenizer() = default;

  // Encodes user text. Any bytes are accepted (invalid UTF-8 too) and decode back to themselves,
  // but for bytes without a token in the vocabulary: those are left out, as `tokenizers` does.
  // (SmolLM2 has none for 6 control characters and for 15 bytes that only invalid UTF-8 and the
  // unassigned planes 4 to 11 need; a vocabulary trained on the whole byte alphabet lacks none.)
  // Never yields a special token: text that spells one is encoded as ordinary characters.
  // REQUIRES: text.size() < 2^31.
  virtual std::vector<int32_t> EncodeText(std::string_view text) const = 0;
  // Encodes a text of the operator (a chat template), in which special tokens count.
  virtual std::vector<int32_t> EncodeTemplate(std::string_view text) const = 0;

  // The bytes of one token; may be part of a character; special tokens give their text.
  // REQUIRES: 0 <= token < vocab_size().
  virtual std::string_view TokenBytes(int32_t token) const = 0;
  virtual bool IsSpecial(int32_t token) const = 0;
  // Concatenated bytes of `tokens`; special tokens are left out if `skip_special`.
  // ERRORS: kInvalidArgument naming the first id outside [0, vocab_size).
  virtual absl::StatusOr<std::string> Decode(absl::Span<const int32_t> tokens,
                                             bool skip_special) const = 0;
  // One more than the largest id of the file.
  virtual int32_t vocab_size() const = 0;
};

}  // namespace gma

#endif  // GMA_MODEL_TOKENIZER_TOKENIZER_H_
