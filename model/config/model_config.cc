#include "model/config/model_config.h"

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"

namespace gma {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr size_t kMaxConfigValues = 100'000;
constexpr size_t kMaxShownBytes = 64;
constexpr size_t kMaxEndTokens = 64;

// A value as it may stand in a message: one line of ASCII, cut when it is long.
std::string Show(const Json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > kMaxShownBytes) text = text.substr(0, kMaxShownBytes) + "...";
  return text;
}

absl::Status Refuse(const std::string& key, const Json& value, const std::string& rule) {
  return absl::InvalidArgumentError(absl::StrCat(key, " = ", Show(value), ", must be ", rule));
}

// A JSON integer in [low, high]; a real number is none, even with a whole value.
absl::StatusOr<int32_t> ReadInteger(const std::string& key, const Json& value, int32_t low,
                                    int32_t high) {
  std::optional<int64_t> number;
  if (value.is_number_unsigned()) {
    if (value.get<uint64_t>() <= static_cast<uint64_t>(INT32_MAX)) number = value.get<int64_t>();
  } else if (value.is_number_integer()) {
    number = value.get<int64_t>();
  }
  if (!number.has_value() || *number < low || *number > high) {
    return Refuse(key, value, absl::StrCat("an integer in [", low, ", ", high, "]"));
  }
  return static_cast<int32_t>(*number);
}

absl::StatusOr<bool> ReadBool(const std::string& key, const Json& value) {
  if (!value.is_boolean()) return Refuse(key, value, "true or false");
  return value.get<bool>();
}

// A number in (0, high].
absl::StatusOr<double> ReadPositive(const std::string& key, const Json& value, double high) {
  double number = value.is_number() ? value.get<double>() : 0;
  if (!(number > 0 && number <= high)) {
    return Refuse(key, value, absl::StrCat("a number in (0, ", high, "]"));
  }
  return number;
}

template <typename Enum>
struct Choice {
  const char* name;
  Enum value;
};

// The value of the choice that `value` names.
template <typename Enum, size_t N>
absl::StatusOr<Enum> ReadChoice(const std::string& key, const Json& value,
                                const Choice<Enum> (&choices)[N]) {
  std::string rule = "one of";
  for (const Choice<Enum>& choice : choices) {
    if (value.is_string() && value.get_ref<const std::string&>() == choice.name) {
      return choice.value;
    }
    absl::StrAppend(&rule, " \"", choice.name, "\"");
  }
  return Refuse(key, value, rule);
}

constexpr Choice<ReadMode> kReadModes[] = {{"static", ReadMode::kStatic},
                                           {"adapted", ReadMode::kAdapted}};
constexpr Choice<RouteMode> kRouteModes[] = {{"projected", RouteMode::kProjected},
                                             {"key", RouteMode::kKey}};
constexpr Choice<ForgetMode> kForgetModes[] = {
    {"none", ForgetMode::kNone}, {"head", ForgetMode::kHead}, {"write", ForgetMode::kWrite}};
constexpr Choice<VarParam> kVarParams[] = {{"bounded", VarParam::kBounded},
                                           {"softplus", VarParam::kSoftplus}};
constexpr Choice<WeightType> kWeightTypes[] = {{"float32", WeightType::kFloat32},
                                               {"bfloat16", WeightType::kBFloat16}};

constexpr int32_t kMaxWindow = 65536;
constexpr int32_t kMaxShortConv = 16;
constexpr int32_t kMaxHorizon = 1 << 30;

// One option of a layer: its name under "gma", and how its value, called `key` in messages, is
// read.
struct Option {
  const char* name;
  absl::Status (*read)(const std::string& key, const Json& value, MixerOptions& options);
};

// An option that is a truth value.
template <bool MixerOptions::*kField>
absl::Status ReadFlag(const std::string& key, const Json& value, MixerOptions& options) {
  GMA_ASSIGN_OR_RETURN(options.*kField, ReadBool(key, value));
  return absl::OkStatus();
}

// An option that is one of a few words.
template <typename Enum, Enum MixerOptions::*kField, const auto& kChoices>
absl::Status ReadWord(const std::string& key, const Json& value, MixerOptions& options) {
  GMA_ASSIGN_OR_RETURN(options.*kField, ReadChoice(key, value, kChoices));
  return absl::OkStatus();
}

absl::Status ReadWindow(const std::string& key, const Json& value, MixerOptions& options) {
  GMA_ASSIGN_OR_RETURN(options.window, ReadInteger(key, value, 0, kMaxWindow));
  return absl::OkStatus();
}

absl::Status ReadShortConv(const std::string& key, const Json& value, MixerOptions& options) {
  GMA_ASSIGN_OR_RETURN(options.short_conv, ReadInteger(key, value, 0, kMaxShortConv));
  if (options.short_conv != 1) return absl::OkStatus();
  return Refuse(key, value, absl::StrCat("0 (off) or in [2, ", kMaxShortConv, "]"));
}

constexpr Option kOptions[] = {
    {"window", ReadWindow},
    {"read", ReadWord<ReadMode, &MixerOptions::read, kReadModes>},
    {"route", ReadWord<RouteMode, &MixerOptions::route, kRouteModes>},
    {"short_conv", ReadShortConv},
    {"forget", ReadWord<ForgetMode, &MixerOptions::forget, kForgetModes>},
    {"route_norm", ReadFlag<&MixerOptions::route_norm>},
    {"out_norm", ReadFlag<&MixerOptions::out_norm>},
    {"out_gate", ReadFlag<&MixerOptions::out_gate>},
    {"var_param", ReadWord<VarParam, &MixerOptions::var_param, kVarParams>},
};

absl::StatusOr<Option> FindOption(const std::string& name) {
  std::string known;
  for (const Option& option : kOptions) {
    if (option.name == name) return option;
    absl::StrAppend(&known, known.empty() ? "" : ", ", option.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("gma has the unknown key ", Show(name), "; known are ", known));
}

// Spreads the options, each one value or a list of one a layer, over the layers.
absl::Status ReadOptions(const Json& gma, std::vector<MixerOptions>& layers) {
  if (!gma.is_object()) return Refuse("gma", gma, "an object");
  for (const auto& [name, value] : gma.items()) {
    GMA_ASSIGN_OR_RETURN(const Option option, FindOption(name));
    const std::string key = absl::StrCat("gma.", name);
    if (value.is_array() && value.size() != layers.size()) {
      return absl::InvalidArgumentError(absl::StrCat(key, " lists ", value.size(),
                                                     " values, must be ", layers.size(),
                                                     " (num_hidden_layers)"));
    }
    for (size_t i = 0; i < layers.size(); ++i) {
      GMA_RETURN_IF_ERROR(option.read(key, value.is_array() ? value[i] : value, layers[i]));
    }
  }
  for (const MixerOptions& layer : layers) {
    if (layer.has_route_k()) continue;
    if (!layer.adapted() || layer.short_conv > 0 || layer.route_norm) {
      return Refuse("gma.route", gma["route"],
                    "\"projected\" in layers with short_conv, with route_norm or without read "
                    "\"adapted\"");
    }
  }
  return absl::OkStatus();
}

struct SizeKey {
  const char* name;
  int32_t ModelConfig::*field;
  int32_t high;  // the range is [1, high]
};

// Upper limits are far beyond any model we know of, and low enough that sizes of a tensor, and
// channels of a layer, stay inside 32 and 64 bits.
constexpr SizeKey kSizes[] = {
    {"vocab_size", &ModelConfig::vocab_size, 1 << 20},
    {"hidden_size", &ModelConfig::hidden_size, 65536},
    {"num_hidden_layers", &ModelConfig::num_layers, 1024},
    {"num_attention_heads", &ModelConfig::num_attention_heads, 1024},
    {"head_dim", &ModelConfig::head_dim, 4096},
    {"num_components", &ModelConfig::num_components, 4096},
    {"routing_dim", &ModelConfig::routing_dim, 4096},
    {"intermediate_size", &ModelConfig::intermediate_size, 1 << 18},
};

// The value under `key`, or null when it is absent.
const Json* Find(const Json& object, const char* key) {
  auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

// The same, and a JSON null counts as absent.
const Json* FindValue(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

absl::Status ReadSizes(const Json& root, ModelConfig& config) {
  for (const SizeKey& size : kSizes) {
    const Json* value = Find(root, size.name);
    if (value == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("missing key ", size.name, ", must be an integer in [1, ", size.high, "]"));
    }
    GMA_ASSIGN_OR_RETURN(config.*size.field, ReadInteger(size.name, *value, 1, size.high));
  }
  if (config.head_dim % 2 != 0) return Refuse("head_dim", root["head_dim"], "even");
  config.num_memory_heads = config.num_attention_heads;
  if (const Json* value = FindValue(root, "num_memory_heads")) {
    GMA_ASSIGN_OR_RETURN(config.num_memory_heads,
                         ReadInteger("num_memory_heads", *value, 1, config.num_attention_heads));
    if (config.num_attention_heads % config.num_memory_heads != 0) {
      return Refuse(
          "num_memory_heads", *value,
          absl::StrCat("a divisor of num_attention_heads = ", config.num_attention_heads));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadScalars(const Json& root, ModelConfig& config) {
  config.rms_norm_eps = 1e-5;
  if (const Json* value = Find(root, "rms_norm_eps")) {
    GMA_ASSIGN_OR_RETURN(config.rms_norm_eps, ReadPositive("rms_norm_eps", *value, 1.0));
  }
  config.rope_theta = 10000.0;
  if (const Json* value = Find(root, "rope_theta")) {
    GMA_ASSIGN_OR_RETURN(config.rope_theta, ReadPositive("rope_theta", *value, 1e15));
  }
  config.slot_horizon = 0;
  if (const Json* value = FindValue(root, "slot_horizon")) {
    GMA_ASSIGN_OR_RETURN(config.slot_horizon, ReadInteger("slot_horizon", *value, 1, kMaxHorizon));
  }
  config.tie_word_embeddings = false;
  if (const Json* value = Find(root, "tie_word_embeddings")) {
    GMA_ASSIGN_OR_RETURN(config.tie_word_embeddings, ReadBool("tie_word_embeddings", *value));
  }
  config.torch_dtype = WeightType::kFloat32;
  if (const Json* value = Find(root, "torch_dtype")) {
    GMA_ASSIGN_OR_RETURN(config.torch_dtype, ReadChoice("torch_dtype", *value, kWeightTypes));
  }
  return absl::OkStatus();
}

absl::Status ReadTokenIds(const Json& root, ModelConfig& config) {
  const int32_t last = config.vocab_size - 1;
  config.bos_token_id = -1;
  if (const Json* value = FindValue(root, "bos_token_id")) {
    GMA_ASSIGN_OR_RETURN(config.bos_token_id, ReadInteger("bos_token_id", *value, 0, last));
  }
  const Json* value = FindValue(root, "eos_token_id");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_array()) {
    GMA_ASSIGN_OR_RETURN(int32_t token, ReadInteger("eos_token_id", *value, 0, last));
    config.eos_token_ids.push_back(token);
    return absl::OkStatus();
  }
  if (value->size() > kMaxEndTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("eos_token_id lists ", value->size(), " tokens, limit ", kMaxEndTokens));
  }
  for (const Json& entry : *value) {
    GMA_ASSIGN_OR_RETURN(int32_t token, ReadInteger("eos_token_id", entry, 0, last));
    config.eos_token_ids.push_back(token);
  }
  return absl::OkStatus();
}

}  // namespace

int32_t ModelConfig::ConvChannels(const MixerOptions& options) const {
  int32_t route_q = options.has_route_q() ? num_attention_heads * routing_dim : 0;
  return route_q + num_memory_heads * (routing_dim + head_dim);
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json) {
  GMA_ASSIGN_OR_RETURN(
      Json root, ParseJson(json, {.max_bytes = kMaxConfigBytes, .max_values = kMaxConfigValues}));
  if (!root.is_object()) return absl::InvalidArgumentError("not a JSON object");
  const Json* model_type = Find(root, "model_type");
  if (model_type == nullptr)
    return absl::InvalidArgumentError("missing key model_type, must be \"gma\"");
  if (*model_type != "gma") return Refuse("model_type", *model_type, "\"gma\"");
  ModelConfig config = {};
  GMA_RETURN_IF_ERROR(ReadSizes(root, config));
  GMA_RETURN_IF_ERROR(ReadScalars(root, config));
  GMA_RETURN_IF_ERROR(ReadTokenIds(root, config));
  config.layers.resize(static_cast<size_t>(config.num_layers));
  if (const Json* gma = Find(root, "gma")) GMA_RETURN_IF_ERROR(ReadOptions(*gma, config.layers));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory) {
  std::string path = absl::StrCat(directory, "/config.json");
  GMA_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kMaxConfigBytes));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(text);
  if (!config.ok()) {
    return absl::Status(config.status().code(),
                        absl::StrCat(path, ": ", config.status().message()));
  }
  return config;
}

}  // namespace gma
