// The model's shape and options, read from `config.json` (docs/ARCHITECTURE.md, "Model directory").
#ifndef GMA_MODEL_CONFIG_MODEL_CONFIG_H_
#define GMA_MODEL_CONFIG_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace gma {

enum class ReadMode { kStatic, kAdapted };
// Where the routing vector of a write comes from: route_k_proj, or `route` times the key before
// rotation, which read "adapted" alone has.
enum class RouteMode { kProjected, kKey };
enum class ForgetMode { kNone, kHead, kWrite };
// How component_omega becomes a variance: kBounded is
//   log sigma^2 = lo + (hi - lo) sigmoid(omega), lo = log 0.05, hi = log(20 sqrt(r));
// kSoftplus is sigma^2 = softplus(omega) + 1e-6 (docs/MATH.md 3).
enum class VarParam { kBounded, kSoftplus };
enum class WeightType { kFloat32, kBFloat16 };

// Options of one layer's mixer; the defaults are plain GMA.
struct MixerOptions {
  int32_t window = 0;      // w newest tokens read exactly, in tokens; 0: off
  int32_t short_conv = 0;  // width of the causal convolution, in tokens; 0: off
  ReadMode read = ReadMode::kStatic;
  RouteMode route = RouteMode::kProjected;
  ForgetMode forget = ForgetMode::kNone;
  VarParam var_param = VarParam::kBounded;
  bool route_norm = false;
  bool out_norm = false;
  bool out_gate = false;

  bool adapted() const { return read == ReadMode::kAdapted; }
  // Tensors that exist only with some options:
  bool has_route_q() const { return !adapted(); }
  bool has_route_k() const { return route == RouteMode::kProjected; }
  bool has_qk() const { return window > 0 || adapted(); }         // q_proj, k_proj
  bool has_slot_bias() const { return window > 0 || adapted(); }  // slot_scale: adapted() alone
  bool operator==(const MixerOptions&) const = default;
};

struct ModelConfig {
  int32_t vocab_size;           // vocab
  int32_t hidden_size;          // d
  int32_t num_layers;           // num_hidden_layers
  int32_t num_attention_heads;  // H query heads
  int32_t num_memory_heads;     // G memory heads, divides H; query head h reads head h / (H/G)
  int32_t head_dim;             // v, even
  int32_t num_components;       // K
  int32_t routing_dim;          // r
  int32_t intermediate_size;    // f
  double rms_norm_eps;
  double rope_theta;
  // Position from which on nothing in the slots looks older (docs/MATH.md 11.1); 0: off.
  int32_t slot_horizon;
  bool tie_word_embeddings;
  int32_t bos_token_id;  // -1: none
  std::vector<int32_t> eos_token_ids;
  WeightType torch_dtype;            // type of the weights in the checkpoint
  std::vector<MixerOptions> layers;  // [num_layers]

  // Rows of conv_weight in a layer: q routing (if it has one), k routing, values.
  int32_t ConvChannels(const MixerOptions& options) const;
};

// Parses and validates config.json. Keys under "gma" are
//   window, read, route, short_conv, forget, route_norm, out_norm, out_gate, var_param,
// each one value or a list of one a layer; an unknown key there is an error, elsewhere ignored.
// ERRORS: kInvalidArgument naming the key, its value and the limit.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json);

// Parses `<directory>/config.json` (at most 1 MiB).
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory);

}  // namespace gma

#endif  // GMA_MODEL_CONFIG_MODEL_CONFIG_H_
