// The recurrent part of one layer's mixer (model/kernels/mixer_step.h has the mathematics and the
// order of its parts) on a GPU: one thread block takes one memory head of one row and all of the
// row's tokens of this step, one after the other.
//
// Every mean and every window entry is read once a token and a group of four query heads, and
// written once: slots are dealt to warps, channels to lanes, and each warp keeps a running softmax
// whose parts are merged at the end.
//
// SAME BITS: a token's output and the state after it depend on the tokens before it alone: not on
// how they were cut into steps, not on the batch. (Projections decide whether a whole step does.)
#ifndef GMA_MODEL_KERNELS_CUDA_MIXER_H_
#define GMA_MODEL_KERNELS_CUDA_MIXER_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace gma::cuda {

// The widest head, and threads of a block.
inline constexpr int32_t kMaxHeadDim = 256;
inline constexpr int32_t kMixerThreads = 256;

// Constants of one layer; pointers into device memory, null where the options leave a tensor out.
// Sizes as in MixerConstants; M = v, or 2v with read "adapted"; C = channels of the convolution.
struct MixerLayer {
  int32_t heads, memory_heads, components, routing_dim, head_dim;
  int32_t window;                     // w, 0: off
  int32_t conv_width, conv_channels;  // 0: off
  bool adapted, forget_head, forget_write;
  float norm_eps;
  int64_t slot_horizon;                                 // L, 0: off
  const double *step_cos, *step_sin;                    // [v / 2] of kHorizonStep
  const float *score_w2, *score_w1;                     // [G, r, K]
  const float* score_w0;                                // [G, K]
  const float* conv_weight;                             // [C, conv_width]
  const float *route_q_norm, *route_k_norm, *out_norm;  // [r], [r], [v]
  const float* key_route;                               // [G, v, r] of FoldedKeyRoute
  const float* slot_bias;                               // [H, K]
  const float* slot_scale;                              // [H]
  const double* forget_beta;                            // [G]
  // Offsets in bytes from the start of a row (model/state/state_layout.h); kAbsent where the layout
  // has no such block.
  static constexpr size_t kAbsent = static_cast<size_t>(-1);
  size_t mass, slot_position, memory, compensation, conv;
  size_t window_key, window_value, window_route, window_log_decay;
};

// The rows of a step; all pointers into device memory, at addresses that a graph may keep.
// Token t of the step has its projections at projected + t * stride + column; kAbsent for a column
// that the layer has not.
struct MixerBatch {
  static constexpr int64_t kAbsent = -1;
  uint8_t* pool;  // of state rows; a row begins with its position, an int64
  size_t row_bytes;
  int32_t rows;
  const int32_t* state_row;  // [rows], distinct; index in the pool
  const int32_t* first;      // [rows]: the row's first token in the step
  const int32_t* count;      // [rows]: how many it has; 0: the row is left alone
  const float* projected;
  int64_t stride;
  int64_t route_q, route_k, value, q, k, gate;  // as in cpu::MixerTokens
  const float* log_decay;                       // [T, G]; forget "head"
  const float *rope_cos, *rope_sin;             // [T, v / 2] of each token's position
  float* out;                                   // token t's [H, v] at out + t * out_stride
  int64_t out_stride;
};

// Puts the kernel into `stream`. The rows' positions are not advanced: every layer needs them.
// ERRORS: cudaErrorInvalidValue for v > kMaxHeadDim, or H not a multiple of G; the launch's own.
// THREADS: any.
cudaError_t RunMixer(const MixerLayer& layer, const MixerBatch& batch, cudaStream_t stream,
                     int32_t threads = kMixerThreads);

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_MIXER_H_
