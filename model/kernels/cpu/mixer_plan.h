// A layer's constants as the SIMD mixer wants them, and where its scratch stands. Widths are padded
// with zeros to multiples of 16, the lanes of mixer_lanes-inl.h.
#ifndef GMA_MODEL_KERNELS_CPU_MIXER_PLAN_H_
#define GMA_MODEL_KERNELS_CPU_MIXER_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hwy/aligned_allocator.h"
#include "model/kernels/cpu/mixer.h"
#include "model/kernels/mixer_step.h"

namespace gma::cpu {

// Owns aligned floats. THREADS: immutable.
struct MixerPlan {
  explicit MixerPlan(const MixerConstants& constants);

  size_t heads, memory_heads, share;  // H, G, H / G
  size_t components, slots;           // K, and K padded
  size_t routing, routing_padded;     // r
  size_t width, width_padded;         // v
  size_t memory_dim;                  // M: v or 2v
  size_t window, window_padded;       // w
  size_t conv_width, conv_channels;
  bool adapted, forget_head, forget_write;
  float norm_eps, near_scale;  // near_scale: 1 / sqrt(v)
  int64_t slot_horizon;        // L, 0: off

  // Scores: score [G, slots / 16, r, 2, 16] holds w2 and w1, score0 [G, slots] w0 and -inf behind
  // it.
  hwy::AlignedFreeUniquePtr<float[]> score, score0;
  hwy::AlignedFreeUniquePtr<float[]> slot_bias;                   // [H, slots] or null
  hwy::AlignedFreeUniquePtr<float[]> route_q_norm, route_k_norm;  // [r padded] or null
  hwy::AlignedFreeUniquePtr<float[]> out_norm;                    // [v padded] or null
  hwy::AlignedFreeUniquePtr<float[]> conv_weight;                 // [conv_width, C] or null
  hwy::AlignedFreeUniquePtr<float[]> key_route;                   // [G, v, r padded] or null
  std::vector<float> slot_scale;                                  // [H] / sqrt(v); read "adapted"
  std::vector<double> forget_beta;                                // [G]; forget "write"
  std::vector<double> step_cos, step_sin;                         // [v/2] of kHorizonStep
};

struct Mixer::Plan : MixerPlan {
  using MixerPlan::MixerPlan;
};

// Parts of a call's scratch; every row padded with zeros or garbage, as said.
struct MixerScratch {
  // `memory` null: only `bytes` is of use.
  MixerScratch(const MixerPlan& plan, uint8_t* memory);

  // The token's and the leaving token's parts, one after the other; their padding stays zero.
  float *route_q, *route_k;                // [share, r], [r]
  float *query, *key, *value;              // [share, v], [v], [v]; query and key rotated
  float *old_route, *old_key, *old_value;  // [r], [v], [v]
  float* plain_key;                        // [v]: KeyRoute's
  double* mass;                            // [slots]
  float *resp, *step, *log_mass;           // [slots]
  float* logits;                           // [share, slots + window], then weights
  float* weight_sum;                       // [share]
  float* partial;                          // [4, 16, 16]: vectors whose lanes are still to be added
  float* out;                              // [share, v]
  size_t vector_bytes;                     // from route_q to the end of plain_key
  size_t bytes;                            // of everything
};

}  // namespace gma::cpu

#endif  // GMA_MODEL_KERNELS_CPU_MIXER_PLAN_H_
