// One token through the recurrent part of one layer's mixer, for one state row: everything between
// the projections and o_proj (docs/MATH.md 5.2, 11, 11.1, 17).
//
// Order: slots that are too old move (slot_horizon) -> short convolution (SiLU on the value) ->
// route_norm -> rotate q and k (RoPE, half-split, angles in float64) -> write responsibilities and
// log-decay -> write (with a window: the token that leaves it) -> read -> out_norm -> out_gate.
#ifndef GMA_MODEL_KERNELS_MIXER_STEP_H_
#define GMA_MODEL_KERNELS_MIXER_STEP_H_

#include <cstdint>

namespace gma {

// With slot_horizon L, before a token whose position is a multiple of this, the keys of slots whose
// mean position is more than L behind it are turned by as many positions.
inline constexpr int64_t kHorizonStep = 64;

// Constants of one layer, made once at load. H query heads, G memory heads, K components, r routing
// width, v head width; C = conv channels. Null pointers where the options leave a tensor out.
struct MixerConstants {
  int32_t heads, memory_heads, components, routing_dim, head_dim;
  int32_t window;      // w, 0: off
  int32_t conv_width;  // 0: off
  bool adapted;        // read "adapted"
  bool forget_head, forget_write;
  double norm_eps, rope_theta;
  int64_t slot_horizon;  // L, 0: off; read "adapted" (docs/MATH.md 11.1)
  // Gauge-centred score matrix (MATH.md 2.1, 2.2): score_k(x) = sum_m w2[m,k] x_m^2 + w1[m,k] x_m
  // + w0[k], in float64.
  const double* score_w2;     // [G, r, K]
  const double* score_w1;     // [G, r, K]
  const double* score_w0;     // [G, K]
  const float* conv_weight;   // [C, conv_width], last column = current token
  const float* route_q_norm;  // [r]
  const float* route_k_norm;  // [r]
  const float* key_route;     // [G, r, v] or null: the routing vector of a write is this times the
                              // key before rotation, and MixerInput has no route_k
  const float* out_norm;      // [v]
  const float* slot_bias;     // [H, K]
  const float* slot_scale;    // [H]
  const double* forget_beta;  // [G], after softplus
};

// Pointers into one state row (model/state/state_layout.h) for one layer.
struct MixerState {
  double* mass;             // [G, K]
  double* slot_position;    // [G, K] or null: mean position of a slot's tokens; slot_horizon
  float* memory;            // [G, K, M], M = v or 2v (adapted)
  float* compensation;      // [G, K, M] or null: Kahan terms of the means
  float* conv;              // [conv_width - 1, C]
  float* window_key;        // [w, G, v]
  float* window_value;      // [w, G, v]
  float* window_route;      // [w, G, r]; null with key_route
  float* window_log_decay;  // [w, G]
};

// One token's projections; borrowed, float32.
struct MixerInput {
  int64_t position;        // tokens fed to the session before this one
  const float* route_q;    // [H, r] or null (adapted)
  const float* route_k;    // [G, r] or null (key_route)
  const float* value;      // [G, v]
  const float* q;          // [H, v] or null, not rotated yet
  const float* k;          // [G, v] or null
  const float* log_decay;  // [G] or null: forget "head"; <= 0
  const float* gate;       // [H, v] or null: gate_proj x before SiLU
};

namespace reference {

// Plain loops in double; state in the row's own types. `out` [H, v].
// A slot with zero responsibility is skipped; write responsibilities below 2^-100 are 0; slots with
// mass 0 are not read; nothing to read gives 0.
// THREADS: any, for distinct rows. Allocates scratch; the oracle of every optimised kernel.
void MixerStep(const MixerConstants& constants, const MixerInput& input, const MixerState& state,
               float* out);

}  // namespace reference
}  // namespace gma

#endif  // GMA_MODEL_KERNELS_MIXER_STEP_H_
