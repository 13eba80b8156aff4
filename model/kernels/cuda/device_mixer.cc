#include "model/kernels/cuda/device_mixer.h"

#include <cmath>
#include <cstddef>

#include "base/status_macros.h"
#include "model/kernels/key_route.h"

namespace gma::cuda {

template <typename T>
absl::Status DeviceMixer::Keep(const T* from, size_t count, std::vector<DeviceArray<T>>& kept,
                               const T*& to) {
  to = nullptr;
  if (from == nullptr) return absl::OkStatus();
  GMA_ASSIGN_OR_RETURN(DeviceArray<T> array, DeviceArray<T>::Copy(absl::MakeSpan(from, count)));
  to = array.data();
  kept.push_back(std::move(array));
  return absl::OkStatus();
}

absl::Status DeviceMixer::KeepScores(const double* from, size_t count, const float*& to) {
  const std::vector<float> rounded(from, from + count);
  return Keep(rounded.data(), count, floats_, to);
}

absl::StatusOr<DeviceMixer> DeviceMixer::Create(const MixerConstants& constants,
                                                const MixerLayer& place) {
  const MixerConstants& c = constants;
  DeviceMixer mixer;
  MixerLayer& layer = mixer.layer_;
  layer = place;
  layer.heads = c.heads;
  layer.memory_heads = c.memory_heads;
  layer.components = c.components;
  layer.routing_dim = c.routing_dim;
  layer.head_dim = c.head_dim;
  layer.window = c.window;
  layer.conv_width = c.conv_width;
  layer.adapted = c.adapted;
  layer.forget_head = c.forget_head;
  layer.forget_write = c.forget_write;
  layer.norm_eps = static_cast<float>(c.norm_eps);
  layer.slot_horizon = c.adapted ? c.slot_horizon : 0;
  const size_t heads = c.heads, groups = c.memory_heads, slots = c.components;
  const size_t r = c.routing_dim, v = c.head_dim;
  const size_t channels = (c.adapted ? 0 : heads * r) + groups * (r + v);
  layer.conv_channels = static_cast<int32_t>(channels);
  GMA_RETURN_IF_ERROR(mixer.KeepScores(c.score_w2, groups * r * slots, layer.score_w2));
  GMA_RETURN_IF_ERROR(mixer.KeepScores(c.score_w1, groups * r * slots, layer.score_w1));
  GMA_RETURN_IF_ERROR(mixer.KeepScores(c.score_w0, groups * slots, layer.score_w0));
  const auto keep = [&](const float* from, size_t count, const float*& to) {
    return mixer.Keep(from, count, mixer.floats_, to);
  };
  const float* conv = c.conv_width > 0 ? c.conv_weight : nullptr;
  GMA_RETURN_IF_ERROR(keep(conv, channels * static_cast<size_t>(c.conv_width), layer.conv_weight));
  GMA_RETURN_IF_ERROR(keep(c.route_q_norm, r, layer.route_q_norm));
  GMA_RETURN_IF_ERROR(keep(c.route_k_norm, r, layer.route_k_norm));
  GMA_RETURN_IF_ERROR(keep(c.out_norm, v, layer.out_norm));
  const std::vector<float> folded = FoldedKeyRoute(c);
  GMA_RETURN_IF_ERROR(
      keep(folded.empty() ? nullptr : folded.data(), folded.size(), layer.key_route));
  GMA_RETURN_IF_ERROR(keep(c.slot_bias, heads * slots, layer.slot_bias));
  GMA_RETURN_IF_ERROR(keep(c.slot_scale, heads, layer.slot_scale));
  std::vector<double> step_cos, step_sin;
  for (size_t i = 0; i < v / 2; ++i) {
    const double angle = static_cast<double>(kHorizonStep) *
                         std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / c.head_dim);
    step_cos.push_back(std::cos(angle));
    step_sin.push_back(std::sin(angle));
  }
  GMA_RETURN_IF_ERROR(mixer.Keep(step_cos.data(), v / 2, mixer.doubles_, layer.step_cos));
  GMA_RETURN_IF_ERROR(mixer.Keep(step_sin.data(), v / 2, mixer.doubles_, layer.step_sin));
  GMA_RETURN_IF_ERROR(mixer.Keep(c.forget_beta, groups, mixer.doubles_, layer.forget_beta));
  return mixer;
}

}  // namespace gma::cuda
