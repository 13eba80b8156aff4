#include "model/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "model/tokenizer/byte_alphabet.h"

namespace gma {
namespace {

using Json = nlohmann::ordered_json;

constexpr JsonLimits kLimits = {.max_bytes = size_t{64} << 20};
constexpr size_t kShownBytes = 40;

absl::Status Refuse(std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.json: ", absl::string_view(what.data(), what.size())));
}

// A token or value of the file, fit for a message.
std::string Shown(std::string_view text) {
  const std::string_view head = text.substr(0, kShownBytes);
  return absl::StrCat("'", absl::CHexEscape(absl::string_view(head.data(), head.size())),
                      head.size() < text.size() ? "...'" : "'");
}

std::string ShownValue(const Json& value) {
  return value.is_string() ? Shown(value.get_ref<const std::string&>()) : Shown(value.dump());
}

// Null if the key is missing or its value is null.
const Json* Find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// `value` is null where the key is missing.
absl::Status RefuseValue(const std::string& name, const Json* value, const char* rule) {
  return Refuse(absl::StrCat(
      name, value == nullptr ? " is missing" : absl::StrCat(" is ", ShownValue(*value)),
      ", must be ", rule));
}

absl::Status CheckObject(const Json& value, std::string_view name,
                         std::initializer_list<std::string_view> known) {
  const std::string shown(name);
  if (!value.is_object()) return RefuseValue(shown, &value, "an object");
  for (const auto& [key, unused] : value.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return Refuse(absl::StrCat(
          "key ", Shown(key), " of ", shown, " is not supported, only ",
          absl::StrJoin(known, ", ",
                        [](std::string* out, std::string_view one) { out->append(one); })));
    }
  }
  return absl::OkStatus();
}

// Refuses `object[key]` unless it is missing, null or `allowed`.
absl::Status CheckOnly(const Json& object, const std::string& name, const char* key,
                       const Json& allowed) {
  const Json* value = Find(object, key);
  if (value == nullptr || *value == allowed) return absl::OkStatus();
  return Refuse(absl::StrCat(name, ".", key, " ", ShownValue(*value), " is not supported, only ",
                             ShownValue(allowed)));
}

absl::Status CheckType(const Json* value, const std::string& name, const char* type) {
  if (value == nullptr) return Refuse(absl::StrCat(name, " is missing, must be a ", type));
  const Json* found = value->is_object() ? Find(*value, "type") : nullptr;
  if (found == nullptr) return RefuseValue(absl::StrCat(name, ".type"), found, type);
  if (*found == type) return absl::OkStatus();
  return Refuse(absl::StrCat(name, ".type ", ShownValue(*found), " is not supported, only ", type));
}

absl::Status CheckByteLevel(const Json* value, const std::string& name, bool splits) {
  GMA_RETURN_IF_ERROR(CheckType(value, name, "ByteLevel"));
  GMA_RETURN_IF_ERROR(
      CheckObject(*value, name, {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  if (!splits) return absl::OkStatus();  // as a decoder or post-processor it only maps bytes
  const Json* prefix = Find(*value, "add_prefix_space");
  if (prefix == nullptr || *prefix != false) {  // the library's own default is true
    return RefuseValue(absl::StrCat(name, ".add_prefix_space"), prefix, "false");
  }
  return CheckOnly(*value, name, "use_regex", true);
}

// Returns whether digits are set apart.
absl::StatusOr<bool> ReadPreTokenizer(const Json* value) {
  const std::string name = "pre_tokenizer";
  if (value == nullptr || !value->is_object() || value->value("type", Json()) != "Sequence") {
    GMA_RETURN_IF_ERROR(CheckByteLevel(value, name, /*splits=*/true));
    return false;
  }
  GMA_RETURN_IF_ERROR(CheckObject(*value, name, {"type", "pretokenizers"}));
  const Json* steps = Find(*value, "pretokenizers");
  if (steps == nullptr || !steps->is_array() || steps->empty() || steps->size() > 2) {
    return RefuseValue("pre_tokenizer.pretokenizers", steps, "[Digits, ByteLevel] or [ByteLevel]");
  }
  if (steps->size() == 2) {
    const std::string digits = "pre_tokenizer.pretokenizers[0]";
    GMA_RETURN_IF_ERROR(CheckType(&(*steps)[0], digits, "Digits"));
    GMA_RETURN_IF_ERROR(CheckObject((*steps)[0], digits, {"type", "individual_digits"}));
    const Json* individual = Find((*steps)[0], "individual_digits");
    if (individual == nullptr || *individual != true) {
      return RefuseValue(absl::StrCat(digits, ".individual_digits"), individual, "true");
    }
  }
  const std::string last = absl::StrCat(name, ".pretokenizers[", steps->size() - 1, "]");
  GMA_RETURN_IF_ERROR(CheckByteLevel(&steps->back(), last, /*splits=*/true));
  return steps->size() == 2;
}

absl::Status CheckModel(const Json* model) {
  GMA_RETURN_IF_ERROR(CheckType(model, "model", "BPE"));
  GMA_RETURN_IF_ERROR(CheckObject(
      *model, "model",
      {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
       "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  GMA_RETURN_IF_ERROR(CheckOnly(*model, "model", "dropout", 0.0));
  // With one, bytes without a token would become it: the text would be lost without a trace.
  GMA_RETURN_IF_ERROR(CheckOnly(*model, "model", "unk_token", nullptr));
  GMA_RETURN_IF_ERROR(CheckOnly(*model, "model", "continuing_subword_prefix", ""));
  GMA_RETURN_IF_ERROR(CheckOnly(*model, "model", "end_of_word_suffix", ""));
  GMA_RETURN_IF_ERROR(CheckOnly(*model, "model", "fuse_unk", false));
  GMA_RETURN_IF_ERROR(CheckOnly(*model, "model", "byte_fallback", false));
  return CheckOnly(*model, "model", "ignore_merges", false);
}

// Checks all that decides how a text is encoded, apart from the vocabulary. Returns whether digits
// are set apart.
absl::StatusOr<bool> ReadSettings(const Json& root) {
  GMA_RETURN_IF_ERROR(CheckObject(root, "the file",
                                  {"version", "truncation", "padding", "added_tokens", "normalizer",
                                   "pre_tokenizer", "post_processor", "decoder", "model"}));
  GMA_RETURN_IF_ERROR(CheckOnly(root, "file", "version", "1.0"));
  for (const char* key : {"truncation", "padding", "normalizer"}) {
    GMA_RETURN_IF_ERROR(CheckOnly(root, "file", key, nullptr));
  }
  if (const Json* post = Find(root, "post_processor"); post != nullptr) {
    GMA_RETURN_IF_ERROR(CheckByteLevel(post, "post_processor", /*splits=*/false));
  }
  GMA_RETURN_IF_ERROR(CheckByteLevel(Find(root, "decoder"), "decoder", /*splits=*/false));
  GMA_RETURN_IF_ERROR(CheckModel(Find(root, "model")));
  return ReadPreTokenizer(Find(root, "pre_tokenizer"));
}

// Collects vocabulary, special tokens and merges.
class Builder {
 public:
  absl::Status ReadSpecials(const Json* added);
  absl::Status ReadVocab(const Json* vocab);
  absl::Status ReadMerges(const Json* merges);
  // Lays the tokens out by id. Last call.
  absl::Status Finish(TokenizerSpec& spec);

 private:
  absl::Status ReadSpecial(const Json& entry, size_t index);
  absl::Status Place(const std::string& token, const Json& id, std::string bytes, bool special);
  absl::Status ReadMerge(const Json& merge, int32_t rank);

  absl::flat_hash_map<std::string, int32_t> ids_;    // by spelling in the file
  absl::flat_hash_map<int64_t, std::string> by_id_;  // bytes of each token
  absl::flat_hash_map<std::string, int32_t> specials_;
  BpeRules rules_;
};

// NOLINTNEXTLINE(performance-unnecessary-value-param): `bytes` is moved into the map.
absl::Status Builder::Place(const std::string& token, const Json& id, std::string bytes,
                            bool special) {
  if (token.empty()) return Refuse("a token is empty");
  // The bound keeps ids far from overflow; Finish() refuses ids beyond the number of tokens.
  if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
    return Refuse(absl::StrCat("id ", ShownValue(id), " of token ", Shown(token),
                               " is not an integer in [0, 2^31)"));
  }
  const int32_t number = id.get<int32_t>();
  const auto [known, is_new] = ids_.try_emplace(token, number);
  if (!is_new) {
    // A special token stands in added_tokens and often in the vocabulary too.
    if (special || !specials_.contains(token)) return Refuse("duplicate token " + Shown(token));
    if (known->second == number) return absl::OkStatus();
    return Refuse(absl::StrCat("special token ", Shown(token), " has id ", known->second,
                               " and id ", number, " in model.vocab"));
  }
  if (special) specials_.emplace(token, number);
  if (const auto [other, free] = by_id_.try_emplace(number, std::move(bytes)); !free) {
    return Refuse(absl::StrCat("id ", number, " of token ", Shown(token), " is taken by ",
                               Shown(other->second)));
  }
  return absl::OkStatus();
}

absl::Status Builder::ReadSpecial(const Json& entry, size_t index) {
  const std::string name = absl::StrCat("added_tokens[", index, "]");
  GMA_RETURN_IF_ERROR(CheckObject(
      entry, name, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  const Json* content = Find(entry, "content");
  const Json* id = Find(entry, "id");
  const Json* special = Find(entry, "special");
  if (content == nullptr || !content->is_string()) {
    return RefuseValue(name + ".content", content, "a string");
  }
  if (id == nullptr) return RefuseValue(name + ".id", id, "an integer in [0, 2^31)");
  // An ordinary added token would have to be found in user text before the pattern splits it.
  if (special == nullptr || *special != true) {
    return RefuseValue(name + ".special", special, "true");
  }
  for (const char* key : {"single_word", "lstrip", "rstrip"}) {
    GMA_RETURN_IF_ERROR(CheckOnly(entry, name, key, false));
  }
  const auto& text = content->get_ref<const std::string&>();
  return Place(text, *id, text, /*special=*/true);
}

absl::Status Builder::ReadSpecials(const Json* added) {
  if (added == nullptr) return absl::OkStatus();
  if (!added->is_array()) return RefuseValue("added_tokens", added, "an array");
  for (size_t i = 0; i < added->size(); ++i) GMA_RETURN_IF_ERROR(ReadSpecial((*added)[i], i));
  return absl::OkStatus();
}

absl::Status Builder::ReadVocab(const Json* vocab) {
  if (vocab == nullptr || !vocab->is_object()) {
    return RefuseValue("model.vocab", vocab, "an object");
  }
  for (const auto& [token, id] : vocab->items()) {
    std::optional<std::string> bytes = BytesOfSpelling(token);
    if (!bytes.has_value() && !specials_.contains(token)) {
      return Refuse("token " + Shown(token) + " is not spelled in the byte alphabet");
    }
    GMA_RETURN_IF_ERROR(
        Place(token, id, bytes.has_value() ? *std::move(bytes) : token, /*special=*/false));
  }
  for (int byte = 0; byte < 256; ++byte) {
    const std::string spelling = SpellingOfByte(static_cast<uint8_t>(byte));
    if (specials_.contains(spelling)) {
      return Refuse("special token " + Shown(spelling) + " is also the token of a byte");
    }
    const auto found = ids_.find(spelling);
    rules_.byte_tokens[byte] = found == ids_.end() ? BpeRules::kNoToken : found->second;
  }
  return absl::OkStatus();
}

absl::Status Builder::ReadMerge(const Json& merge, int32_t rank) {
  const std::string name = absl::StrCat("model.merges[", rank, "]");
  std::string left, right;
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    left = merge[0].get_ref<const std::string&>();
    right = merge[1].get_ref<const std::string&>();
  } else if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return RefuseValue(name, &merge, "two tokens with one space between them");
    }
    left = text.substr(0, space);
    right = text.substr(space + 1);
  } else {
    return RefuseValue(name, &merge, "a pair of tokens");
  }
  const std::string result = left + right;
  for (const std::string& token : {left, right, result}) {
    if (!ids_.contains(token)) return Refuse(name + " names unknown token " + Shown(token));
  }
  if (specials_.contains(result)) {
    return Refuse(name + " makes the special token " + Shown(result));
  }
  const uint64_t key = BpeRules::PairKey(ids_[left], ids_[right]);
  const auto [known, is_new] = rules_.merges.try_emplace(key, MergeRule{rank, ids_[result]});
  if (is_new) return absl::OkStatus();
  return Refuse(absl::StrCat(name, " repeats model.merges[", known->second.rank, "]"));
}

absl::Status Builder::ReadMerges(const Json* merges) {
  if (merges == nullptr || !merges->is_array()) {
    return RefuseValue("model.merges", merges, "an array");
  }
  if (merges->size() > INT32_MAX) {
    return Refuse(absl::StrCat("model.merges lists ", merges->size(), ", limit ", INT32_MAX));
  }
  rules_.merges.reserve(merges->size());
  int32_t rank = 0;
  for (const Json& merge : *merges) GMA_RETURN_IF_ERROR(ReadMerge(merge, rank++));
  return absl::OkStatus();
}

absl::Status Builder::Finish(TokenizerSpec& spec) {
  if (by_id_.empty()) return Refuse("model.vocab is empty");
  for (size_t id = 0; id < by_id_.size(); ++id) {
    const auto found = by_id_.find(static_cast<int64_t>(id));
    if (found == by_id_.end()) {
      return Refuse(absl::StrCat("no token has id ", id, ", though there are ", by_id_.size(),
                                 " tokens: ids must be dense"));
    }
    spec.token_bytes.push_back(std::move(found->second));
  }
  spec.special.assign(by_id_.size(), false);
  for (const auto& [token, id] : specials_) spec.special[id] = true;
  spec.rules = std::move(rules_);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view json) {
  absl::StatusOr<Json> parsed = ParseJson(json, kLimits);
  if (!parsed.ok()) {
    return Refuse(
        std::string_view(parsed.status().message().data(), parsed.status().message().size()));
  }
  const Json& root = *parsed;
  TokenizerSpec spec;
  GMA_ASSIGN_OR_RETURN(spec.isolate_digits, ReadSettings(root));
  const Json& model = *Find(root, "model");
  Builder builder;
  GMA_RETURN_IF_ERROR(builder.ReadSpecials(Find(root, "added_tokens")));
  GMA_RETURN_IF_ERROR(builder.ReadVocab(Find(model, "vocab")));
  GMA_RETURN_IF_ERROR(builder.ReadMerges(Find(model, "merges")));
  GMA_RETURN_IF_ERROR(builder.Finish(spec));
  return spec;
}

}  // namespace gma
