#include "model/decoder/mixer_constants.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "model/kernels/score_matrix.h"

namespace gma {
namespace {

// log(1 + e^x) without overflow.
double Softplus(double x) { return std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }

// Variance of a free parameter (docs/MATH.md 3).
double Variance(double omega, VarParam var_param, int32_t routing_dim) {
  if (var_param == VarParam::kSoftplus) return Softplus(omega) + 1e-6;
  const double lo = std::log(0.05);
  const double hi = std::log(20.0 * std::sqrt(static_cast<double>(routing_dim)));
  return std::exp(lo + (hi - lo) / (1.0 + std::exp(-omega)));
}

template <typename T>
T* BlockAt(uint8_t* row, size_t offset) {
  return offset == LayerLayout::kAbsent ? nullptr : reinterpret_cast<T*>(row + offset);
}

}  // namespace

std::vector<float> ToFloats(const TensorView& tensor) {
  std::vector<float> floats(tensor.data.size() / TensorTypeBytes(tensor.type));
  CopyFloats(tensor, 0, floats.size(), floats.data());
  return floats;
}

LayerMixer::LayerMixer(const ModelDir& model, int32_t layer)
    : prefix_(absl::StrCat("model.layers.", layer, ".mixer.")) {
  const ModelConfig& config = model.config();
  const MixerOptions& options = config.layers[layer];
  constants_.heads = config.num_attention_heads;
  constants_.memory_heads = config.num_memory_heads;
  constants_.components = config.num_components;
  constants_.routing_dim = config.routing_dim;
  constants_.head_dim = config.head_dim;
  constants_.window = options.window;
  constants_.conv_width = options.short_conv;
  constants_.adapted = options.adapted();
  constants_.forget_head = options.forget == ForgetMode::kHead;
  constants_.forget_write = options.forget == ForgetMode::kWrite;
  constants_.norm_eps = config.rms_norm_eps;
  constants_.rope_theta = config.rope_theta;
  constants_.slot_horizon = config.slot_horizon;
  BuildScores(model, options.var_param);
  if (options.short_conv > 0) constants_.conv_weight = Keep(model, "conv_weight");
  if (!options.has_route_k()) constants_.key_route = Keep(model, "route");
  if (options.route_norm) {
    if (options.has_route_q()) constants_.route_q_norm = Keep(model, "route_q_norm.weight");
    constants_.route_k_norm = Keep(model, "route_k_norm.weight");
  }
  if (options.out_norm) constants_.out_norm = Keep(model, "out_norm.weight");
  if (options.has_slot_bias()) constants_.slot_bias = Keep(model, "slot_bias");
  if (options.adapted()) constants_.slot_scale = Keep(model, "slot_scale");
  if (constants_.forget_head) {
    Keep(model, "forget_bias");
    Keep(model, "forget_a_log");
  }
  if (constants_.forget_write) {
    const std::vector<float> beta = ToFloats(model.tensor(prefix_ + "forget_beta"));
    forget_beta_.resize(beta.size());
    std::transform(beta.begin(), beta.end(), forget_beta_.begin(), Softplus);
    constants_.forget_beta = forget_beta_.data();
  }
}

const float* LayerMixer::Keep(const ModelDir& model, std::string_view name) {
  const std::string key(name);
  return floats_.emplace(key, ToFloats(model.tensor(prefix_ + key))).first->second.data();
}

void LayerMixer::BuildScores(const ModelDir& model, VarParam var_param) {
  const std::vector<float> mean = ToFloats(model.tensor(prefix_ + "component_mean"));
  const std::vector<float> omega = ToFloats(model.tensor(prefix_ + "component_omega"));
  const std::vector<float> prior = ToFloats(model.tensor(prefix_ + "prior_logits"));
  std::vector<double> variance(omega.size());
  std::transform(omega.begin(), omega.end(), variance.begin(),
                 [&](float x) { return Variance(x, var_param, constants_.routing_dim); });
  score_w2_.resize(mean.size());
  score_w1_.resize(mean.size());
  score_w0_.resize(prior.size());
  const MixtureParameters mixture = {.memory_heads = constants_.memory_heads,
                                     .components = constants_.components,
                                     .routing_dim = constants_.routing_dim,
                                     .mean = mean.data(),
                                     .variance = variance.data(),
                                     .prior_logits = prior.data()};
  BuildScoreMatrix(mixture, score_w2_.data(), score_w1_.data(), score_w0_.data());
  constants_.score_w2 = score_w2_.data();
  constants_.score_w1 = score_w1_.data();
  constants_.score_w0 = score_w0_.data();
}

float LayerMixer::LogDecay(int32_t memory_head, float forget) const {
  const double bias = floats_.find("forget_bias")->second[memory_head];
  const double a_log = floats_.find("forget_a_log")->second[memory_head];
  return static_cast<float>(-std::exp(a_log) * Softplus(forget + bias));
}

MixerState StateOfLayer(uint8_t* row, const LayerLayout& layout) {
  return {.mass = BlockAt<double>(row, layout.mass),
          .slot_position = BlockAt<double>(row, layout.slot_position),
          .memory = BlockAt<float>(row, layout.memory),
          .compensation = BlockAt<float>(row, layout.compensation),
          .conv = BlockAt<float>(row, layout.conv),
          .window_key = BlockAt<float>(row, layout.window_key),
          .window_value = BlockAt<float>(row, layout.window_value),
          .window_route = BlockAt<float>(row, layout.window_route),
          .window_log_decay = BlockAt<float>(row, layout.window_log_decay)};
}

}  // namespace gma
