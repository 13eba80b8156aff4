#include "model/kernels/mixer_step.h"

#include <cmath>
#include <vector>

#include "base/check.h"
#include "model/kernels/reference/mixer_head.h"
#include "model/kernels/reference/mixer_parts.h"

namespace gma::reference {
namespace {

// out_norm and out_gate of one query head; `o` [v].
void FinishHead(const MixerConstants& constants, const MixerInput& input, int32_t head, double* o,
                float* out) {
  const int32_t v = constants.head_dim;
  if (constants.out_norm != nullptr) RmsNorm(constants.out_norm, constants.norm_eps, v, o);
  for (int32_t i = 0; i < v; ++i) {
    if (input.gate != nullptr) {
      const double gate = input.gate[head * v + i];
      o[i] *= gate / (1.0 + std::exp(-gate));
    }
    out[head * v + i] = static_cast<float>(o[i]);
  }
}

}  // namespace

void MixerHeadStep(const MixerConstants& constants, const MixerInput& input,
                   const MixerState& state, const RopeAngles* angles, int32_t memory_head,
                   float* out) {
  MoveOldSlots(constants, state, input.position, memory_head);
  const HeadToken token = PrepareToken(constants, input, state, angles, memory_head);
  if (constants.window > 0) {
    AdvanceWindow(constants, state, input.position, memory_head, token);
  } else {
    std::vector<double> content = token.value;
    const std::vector<double> route =
        constants.key_route == nullptr
            ? token.route_k
            : KeyRoute(constants, memory_head, token.k.data(), input.position);
    if (constants.adapted) content.insert(content.end(), token.k.begin(), token.k.end());
    WriteToken(constants, state, input.position, memory_head, content, route.data(),
               token.log_decay);
  }
  std::vector<double> o = Read(constants, state, input.position, memory_head, token);
  const int32_t share = constants.heads / constants.memory_heads;
  for (int32_t j = 0; j < share; ++j) {
    FinishHead(constants, input, memory_head * share + j, o.data() + j * constants.head_dim, out);
  }
}

void MixerStep(const MixerConstants& constants, const MixerInput& input, const MixerState& state,
               float* out) {
  GMA_CHECK(constants.heads % constants.memory_heads == 0);
  GMA_CHECK(input.position >= 0);
  const RopeAngles angles(input.position, constants.rope_theta, constants.head_dim);
  for (int32_t g = 0; g < constants.memory_heads; ++g) {
    MixerHeadStep(constants, input, state, &angles, g, out);
  }
}

}  // namespace gma::reference
