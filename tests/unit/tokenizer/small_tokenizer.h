// A small tokenizer.json for tests: special tokens, the 256 bytes, and the merges a test asks for.
#ifndef GMA_TESTS_UNIT_TOKENIZER_SMALL_TOKENIZER_H_
#define GMA_TESTS_UNIT_TOKENIZER_SMALL_TOKENIZER_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/tokenizer/byte_alphabet.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace gma {

inline constexpr int32_t kEndOfText = 0;  // <|end|>
inline constexpr int32_t kStart = 1;      // <|start|>
inline constexpr int32_t kFirstByte = 2;  // byte b is token kFirstByte + b
inline constexpr int32_t kFirstMerge = 258;

inline std::string Spell(std::string_view bytes) {
  std::string spelling;
  for (const char c : bytes) spelling += SpellingOfByte(static_cast<uint8_t>(c));
  return spelling;
}

// `merges` hold plain bytes; each result gets the next id from kFirstMerge on.
inline nlohmann::ordered_json SmallTokenizerJson(
    const std::vector<std::pair<std::string, std::string>>& merges = {}) {
  using Json = nlohmann::ordered_json;
  Json vocab = Json::object();
  Json added = Json::array();
  for (const char* special : {"<|end|>", "<|start|>"}) {
    const size_t id = added.size();
    vocab[special] = id;
    added.push_back({{"id", id}, {"content", special}, {"special", true}});
  }
  for (int byte = 0; byte < 256; ++byte) {
    vocab[SpellingOfByte(static_cast<uint8_t>(byte))] = kFirstByte + byte;
  }
  Json pairs = Json::array();
  for (const auto& [left, right] : merges) {
    vocab[Spell(left + right)] = vocab.size();
    pairs.push_back({Spell(left), Spell(right)});
  }
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "Sequence"}, {"pretokenizers", Json::array({digits, byte_level})}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", pairs}}}};
}

}  // namespace gma

#endif  // GMA_TESTS_UNIT_TOKENIZER_SMALL_TOKENIZER_H_
