#include "server/loaded_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"

namespace gma {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

// A model without the file has the defaults of the API.
absl::StatusOr<GenerationDefaults> LoadGenerationDefaults(const std::string& directory,
                                                          int32_t vocab_size) {
  const std::string path = directory + "/generation_config.json";
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) return GenerationDefaults();
  if (!text.ok()) return text.status();
  absl::StatusOr<GenerationDefaults> defaults = ParseGenerationDefaults(*text, vocab_size);
  if (defaults.ok()) return defaults;
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", defaults.status().message()));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChat(const std::string& directory,
                                                       const Tokenizer& tokenizer) {
  absl::StatusOr<ChatTemplate> chat = ChatTemplate::Load(directory, tokenizer);
  if (absl::IsNotFound(chat.status())) return nullptr;
  if (!chat.ok()) return chat.status();
  return std::make_unique<ChatTemplate>(*std::move(chat));
}

ServedModel Describe(const LoadedModel& model, const ServerOptions& options) {
  const ModelConfig& config = model.directory.config();
  ServedModel served;
  served.name = options.model_name;
  served.fingerprint = model.directory.fingerprint();
  served.device = options.device;
  served.weights = options.weights;
  served.version = kServerVersion;
  served.parameter_count = model.directory.parameter_count();
  served.state_bytes = static_cast<int64_t>(model.decoder->state_layout().row_bytes());
  served.vocab_size = config.vocab_size;
  served.num_layers = config.num_layers;
  served.num_attention_heads = config.num_attention_heads;
  served.num_memory_heads = config.num_memory_heads;
  served.num_components = config.num_components;
  served.max_step_tokens = options.max_step_tokens;
  served.max_batch_rows = options.max_batch_rows;
  served.tokenizer = model.tokenizer.get();
  served.chat = model.chat.get();
  if (model.chat != nullptr) served.chat_opening = ChatOpening(*model.chat);
  return served;
}

// The end tokens of both files, each once.
std::vector<int32_t> EndTokens(const ModelConfig& config, const GenerationDefaults& defaults) {
  std::vector<int32_t> tokens = config.eos_token_ids;
  tokens.insert(tokens.end(), defaults.end_tokens.begin(), defaults.end_tokens.end());
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

// The decoder's options have the names of the flags that they come from.
absl::Status NameFlag(const absl::Status& status) {
  for (const char* option : {"device", "decoder", "weights", "deterministic"}) {
    if (absl::StartsWith(status.message(), absl::StrCat(option, " is "))) {
      return absl::Status(status.code(), absl::StrCat("--", std::string(status.message())));
    }
  }
  return status;
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const ServerOptions& options) {
  GMA_ASSIGN_OR_RETURN(
      ModelDir directory,
      ModelDir::Open(options.model, {.allow_nonfinite_weights = options.allow_nonfinite_weights}));
  LoadedModel model{.directory = std::move(directory)};
  const ModelConfig& config = model.directory.config();
  GMA_ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::Load(options.model));
  if (model.tokenizer->vocab_size() > config.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.model, ": tokenizer.json has ", model.tokenizer->vocab_size(),
                     " tokens, more than vocab_size of config.json, which is ", config.vocab_size));
  }
  GMA_ASSIGN_OR_RETURN(model.chat, LoadChat(options.model, *model.tokenizer));
  GMA_ASSIGN_OR_RETURN(GenerationDefaults defaults,
                       LoadGenerationDefaults(options.model, config.vocab_size));
  auto decoder =
      CompiledDecoder::Load(model.directory, {.device = options.device,
                                              .decoder = options.decoder,
                                              .weights = options.weights,
                                              .max_batch_rows = options.max_batch_rows,
                                              .max_step_tokens = options.max_step_tokens,
                                              .compensated_state = options.compensated_state,
                                              .threads = options.threads,
                                              .deterministic = options.deterministic,
                                              .eager = options.eager});
  if (!decoder.ok()) return NameFlag(decoder.status());
  model.decoder = *std::move(decoder);
  model.served = Describe(model, options);
  model.served.end_tokens = EndTokens(config, defaults);
  model.served.defaults = std::move(defaults);
  return model;
}

}  // namespace gma
