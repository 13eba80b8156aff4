#include "server/rpc/served_model.h"

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "server/options/limits.h"

namespace gma {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxConfigBytes = 1 << 20;

// A value of the file, fit for a message.
std::string Shown(const Json& value) {
  constexpr size_t kShownBytes = 64;
  const std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  return text.size() > kShownBytes ? text.substr(0, kShownBytes) + "..." : text;
}

// Leaves `value` alone when the key is absent or null.
absl::Status ReadNumber(const Json& json, const char* key, const Limit& limit, double& value) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return absl::OkStatus();
  if (!found->is_number()) {
    return absl::InvalidArgumentError(absl::StrCat("key \"", key, "\" is ", Shown(*found),
                                                   ", must be a number in [", limit.min, ", ",
                                                   limit.max, "]"));
  }
  value = found->get<double>();
  absl::Status status = CheckLimit(limit, value);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat("key \"", key, "\": ", status.message()));
}

absl::Status AddEndToken(const Json& id, int32_t vocab_size, std::vector<int32_t>& tokens) {
  if (!id.is_number_integer() || id < 0 || id >= vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("key \"eos_token_id\" holds ", Shown(id),
                                                   ", must hold token ids in [0, ", vocab_size,
                                                   ")"));
  }
  tokens.push_back(id.get<int32_t>());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(std::string_view json,
                                                           int32_t vocab_size) {
  GMA_ASSIGN_OR_RETURN(const Json config, ParseJson(json, {.max_bytes = kMaxConfigBytes}));
  if (!config.is_object()) return absl::InvalidArgumentError("it must hold a JSON object");
  GenerationDefaults defaults;
  double top_k = 0;
  GMA_RETURN_IF_ERROR(
      ReadNumber(config, "temperature", limits::kTemperature, defaults.temperature));
  GMA_RETURN_IF_ERROR(ReadNumber(config, "top_k", limits::kTopK, top_k));
  GMA_RETURN_IF_ERROR(ReadNumber(config, "top_p", limits::kTopP, defaults.top_p));
  GMA_RETURN_IF_ERROR(ReadNumber(config, "min_p", limits::kMinP, defaults.min_p));
  GMA_RETURN_IF_ERROR(ReadNumber(config, "typical_p", limits::kTypicalP, defaults.typical_p));
  GMA_RETURN_IF_ERROR(ReadNumber(config, "repetition_penalty", limits::kRepetitionPenalty,
                                 defaults.repetition_penalty));
  defaults.top_k = static_cast<int32_t>(top_k);
  const auto do_sample = config.find("do_sample");
  if (do_sample != config.end() && *do_sample == false) defaults.temperature = 0;
  const auto end = config.find("eos_token_id");
  if (end == config.end() || end->is_null()) return defaults;
  if (!end->is_array()) {
    GMA_RETURN_IF_ERROR(AddEndToken(*end, vocab_size, defaults.end_tokens));
    return defaults;
  }
  for (const Json& id : *end) {
    GMA_RETURN_IF_ERROR(AddEndToken(id, vocab_size, defaults.end_tokens));
  }
  return defaults;
}

std::vector<int32_t> ChatOpening(const ChatTemplate& chat) {
  const ChatMessage probe[] = {{"user", ""}};
  const auto fresh = chat.Render(probe, /*first=*/true);
  const auto later = chat.Render(probe, /*first=*/false);
  if (!fresh.ok() || !later.ok() || fresh->tokens.size() < later->tokens.size()) return {};
  return {fresh->tokens.begin(),
          fresh->tokens.end() - static_cast<ptrdiff_t>(later->tokens.size())};
}

}  // namespace gma
