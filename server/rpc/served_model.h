// The model as the API shows it: names and sizes, tokenizer, chat format, defaults. Plain facts, so
// that requests can be read and tested without a decoder.
#ifndef GMA_SERVER_RPC_SERVED_MODEL_H_
#define GMA_SERVER_RPC_SERVED_MODEL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/chat_template.h"
#include "model/tokenizer/tokenizer.h"

namespace gma {

// What absent fields of a request mean: generation_config.json of the model, else these values.
struct GenerationDefaults {
  double temperature = 1, top_p = 1, min_p = 0, typical_p = 1, repetition_penalty = 1;
  int32_t top_k = 0;
  std::vector<int32_t> end_tokens;  // eos_token_id, besides those of config.json
};

// Reads the text of a generation_config.json. Keys: temperature, top_k, top_p, min_p, typical_p,
// repetition_penalty, do_sample (false: temperature 0), eos_token_id (a number or a list); others
// are ignored.
// ERRORS: kInvalidArgument naming the key, its value and the limit.
absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(std::string_view json,
                                                           int32_t vocab_size);

// THREADS: immutable while it serves.
struct ServedModel {
  std::string name, fingerprint, device, weights, version;
  int64_t parameter_count = 0, state_bytes = 0;
  int32_t vocab_size = 0, num_layers = 0, num_attention_heads = 0, num_memory_heads = 0;
  int32_t num_components = 0, max_step_tokens = 0, max_batch_rows = 0;
  const Tokenizer* tokenizer = nullptr;  // borrowed
  const ChatTemplate* chat = nullptr;    // borrowed; null: the model has no chat format
  // What precedes the first chat message of a fresh session unless that is a system message.
  std::vector<int32_t> chat_opening;
  std::vector<int32_t> end_tokens;
  GenerationDefaults defaults;
};

// The tokens that Render puts in front of a fresh session's first message; empty without a default
// system message.
std::vector<int32_t> ChatOpening(const ChatTemplate& chat);

}  // namespace gma

#endif  // GMA_SERVER_RPC_SERVED_MODEL_H_
