#include <algorithm>
#include <cmath>
#include <vector>

#include "model/kernels/reference/mixer_parts.h"

namespace gma::reference {

void MoveOldSlots(const MixerConstants& constants, const MixerState& state, int64_t position,
                  int32_t memory_head) {
  if (state.slot_position == nullptr || position % kHorizonStep != 0) return;
  const int64_t components = constants.components, v = constants.head_dim;
  const RopeAngles angles(kHorizonStep, constants.rope_theta, constants.head_dim);
  std::vector<double> exact(v);
  for (int64_t k = 0; k < components; ++k) {
    const int64_t slot = memory_head * components + k;
    double& at = state.slot_position[slot];
    const double age = static_cast<double>(position) - at;
    if (state.mass[slot] == 0 || age <= static_cast<double>(constants.slot_horizon)) continue;
    at += kHorizonStep;
    float* key = state.memory + (2 * slot + 1) * v;
    float* rest = state.compensation == nullptr ? nullptr : state.compensation + (2 * slot + 1) * v;
    for (int64_t i = 0; i < v; ++i) {
      exact[i] = rest == nullptr ? key[i] : static_cast<double>(key[i]) + rest[i];
    }
    Rotate(angles, exact.data());
    for (int64_t i = 0; i < v; ++i) {
      key[i] = static_cast<float>(exact[i]);
      if (rest != nullptr) rest[i] = static_cast<float>(exact[i] - key[i]);
    }
  }
}

void WriteToken(const MixerConstants& constants, const MixerState& state, int64_t position,
                int32_t memory_head, const std::vector<double>& content, const double* route_k,
                double log_decay) {
  const int64_t components = constants.components;
  const int64_t width = static_cast<int64_t>(content.size());
  const std::vector<double> resp = WriteResponsibilities(Scores(constants, memory_head, route_k));
  for (int64_t k = 0; k < components; ++k) {
    const int64_t slot = memory_head * components + k;
    if (constants.forget_write) log_decay = -constants.forget_beta[memory_head] * resp[k];
    double& mass = state.mass[slot];
    mass = std::exp(log_decay) * mass + resp[k];
    if (resp[k] == 0) continue;
    const double step = resp[k] / mass;
    if (state.slot_position != nullptr) {
      double& at = state.slot_position[slot];
      at += step * (static_cast<double>(position) - at);
    }
    float* mean = state.memory + slot * width;
    float* rest = state.compensation == nullptr ? nullptr : state.compensation + slot * width;
    for (int64_t i = 0; i < width; ++i) {
      // The compensation is what rounding the mean to float32 left out (docs/MATH.md 7).
      double exact = rest == nullptr ? mean[i] : static_cast<double>(mean[i]) + rest[i];
      exact += step * (content[i] - exact);
      mean[i] = static_cast<float>(exact);
      if (rest != nullptr) rest[i] = static_cast<float>(exact - mean[i]);
    }
  }
}

void AdvanceWindow(const MixerConstants& constants, const MixerState& state, int64_t position,
                   int32_t memory_head, const HeadToken& token) {
  const int64_t entry =
      (position % constants.window) * constants.memory_heads + memory_head;  // of [w, G]
  float* key = state.window_key + entry * constants.head_dim;
  float* value = state.window_value + entry * constants.head_dim;
  const bool own_route = constants.key_route == nullptr;
  float* route = own_route ? state.window_route + entry * constants.routing_dim : nullptr;
  float* decay = constants.forget_head ? state.window_log_decay + entry : nullptr;
  if (position >= constants.window) {  // the entry still holds token position - window
    std::vector<double> content(value, value + constants.head_dim);
    if (constants.adapted) content.insert(content.end(), key, key + constants.head_dim);
    std::vector<double> route_k;
    if (own_route) {
      route_k.assign(route, route + constants.routing_dim);
    } else {
      const std::vector<double> old_key(key, key + constants.head_dim);
      route_k = KeyRoute(constants, memory_head, old_key.data(), position - constants.window);
    }
    WriteToken(constants, state, position - constants.window, memory_head, content, route_k.data(),
               decay == nullptr ? 0.0 : *decay);
  }
  std::copy(token.k.begin(), token.k.end(), key);
  std::copy(token.value.begin(), token.value.end(), value);
  if (own_route) std::copy(token.route_k.begin(), token.route_k.end(), route);
  if (decay != nullptr) *decay = static_cast<float>(token.log_decay);
}

}  // namespace gma::reference
