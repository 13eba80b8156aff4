#include "model/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/split.h"
#include "model/tokenizer/tokenizer_json.h"

namespace gma {
namespace {

constexpr size_t kMaxFileBytes = size_t{64} << 20;

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(TokenizerSpec spec) : spec_(std::move(spec)) {
    for (int32_t id = 0; id < vocab_size(); ++id) {
      if (!IsSpecial(id)) continue;
      specials_by_first_byte_[static_cast<uint8_t>(TokenBytes(id).front())].push_back(id);
    }
    for (std::vector<int32_t>& ids : specials_by_first_byte_) {
      std::sort(ids.begin(), ids.end(), [this](int32_t a, int32_t b) {
        return TokenBytes(a).size() > TokenBytes(b).size();
      });
    }
  }

  std::vector<int32_t> EncodeText(std::string_view text) const override {
    std::vector<int32_t> tokens;
    BpeMerger merger(spec_.rules);
    AppendText(text, merger, tokens);
    return tokens;
  }

  std::vector<int32_t> EncodeTemplate(std::string_view text) const override {
    std::vector<int32_t> tokens;
    BpeMerger merger(spec_.rules);
    size_t plain = 0;  // start of the text that no special token has ended yet
    for (size_t position = 0; position < text.size();) {
      const int32_t special = LongestSpecialAt(text, position);
      if (special < 0) {
        ++position;
        continue;
      }
      AppendText(text.substr(plain, position - plain), merger, tokens);
      tokens.push_back(special);
      position += TokenBytes(special).size();
      plain = position;
    }
    AppendText(text.substr(plain), merger, tokens);
    return tokens;
  }

  std::string_view TokenBytes(int32_t token) const override {
    GMA_CHECK(token >= 0 && token < vocab_size());
    return spec_.token_bytes[token];
  }

  bool IsSpecial(int32_t token) const override {
    GMA_CHECK(token >= 0 && token < vocab_size());
    return spec_.special[token];
  }

  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> tokens,
                                     bool skip_special) const override {
    std::string bytes;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int32_t token = tokens[i];
      if (token < 0 || token >= vocab_size()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "ids[", i, "] is ", token, ", must be a token id in [0, ", vocab_size(), ")"));
      }
      if (!skip_special || !spec_.special[token]) bytes += spec_.token_bytes[token];
    }
    return bytes;
  }

  int32_t vocab_size() const override { return static_cast<int32_t>(spec_.token_bytes.size()); }

 private:
  void AppendText(std::string_view text, BpeMerger& merger, std::vector<int32_t>& tokens) const {
    PieceSplitter splitter(text, spec_.isolate_digits);
    for (std::string_view piece = splitter.Next(); !piece.empty(); piece = splitter.Next()) {
      merger.Encode(piece, tokens);
    }
  }

  // -1 if none starts here.
  int32_t LongestSpecialAt(std::string_view text, size_t position) const {
    for (const int32_t id : specials_by_first_byte_[static_cast<uint8_t>(text[position])]) {
      const std::string_view special = spec_.token_bytes[id];
      if (text.substr(position, special.size()) == special) return id;
    }
    return -1;
  }

  const TokenizerSpec spec_;
  std::array<std::vector<int32_t>, 256> specials_by_first_byte_;  // longest first
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& directory) {
  GMA_ASSIGN_OR_RETURN(const std::string json,
                       ReadFile(absl::StrCat(directory, "/tokenizer.json"), kMaxFileBytes));
  return Parse(json);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(std::string_view json) {
  GMA_ASSIGN_OR_RETURN(TokenizerSpec spec, ParseTokenizerJson(json));
  return std::make_unique<BpeTokenizer>(std::move(spec));
}

}  // namespace gma
