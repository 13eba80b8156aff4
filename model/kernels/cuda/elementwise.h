// What is done to a step's activations token by token: embedding, norms, SwiGLU, angles of
// rotation, log-decays, positions. T, the type of weights and of the activations that a product
// reads, is float or __nv_bfloat16; the residual stream and everything a mixer reads are float.
//
// All pointers are of device memory; [tokens, n] is row after row. Each call puts one kernel into
// `stream`. ERRORS: the launch's. THREADS: any. SAME BITS: a token's numbers depend on the token.
#ifndef GMA_MODEL_KERNELS_CUDA_ELEMENTWISE_H_
#define GMA_MODEL_KERNELS_CUDA_ELEMENTWISE_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace gma::cuda {

// x [tokens, width] <- rows `ids` [T] of table [vocabulary, width].
template <typename T>
cudaError_t RunEmbed(const T* table, const int32_t* ids, int64_t tokens, int32_t width, float* x,
                     cudaStream_t stream);

// out [tokens, width], token i <- gain * y / sqrt(mean(y^2) + eps) with y = x of token picked[i];
// of token i where `picked` is null.
template <typename T>
cudaError_t RunRmsNorm(const float* x, const int32_t* picked, const float* gain, float eps,
                       int64_t tokens, int32_t width, T* out, cudaStream_t stream);

// out [tokens, width] <- silu(gate) * up, with gate and up side by side in gate_up [tokens, 2
// width].
template <typename T>
cudaError_t RunSwiGlu(const float* gate_up, int64_t tokens, int32_t width, T* out,
                      cudaStream_t stream);

// out [tokens, width] <- x.
template <typename T>
cudaError_t RunRound(const float* x, int64_t tokens, int32_t width, T* out, cudaStream_t stream);

// The rows of a step, as in MixerBatch.
struct StepRows {
  uint8_t* pool;
  size_t row_bytes;
  int32_t rows;
  const int32_t *state_row, *first, *count;  // [rows]
};

// cos and sin [tokens, half] of position * frequency[i], in float64 because positions have no
// bound. frequency: [half], theta^(-2 i / v).
cudaError_t RunRotationAngles(const StepRows& rows, const double* frequency, int32_t half,
                              float* cosines, float* sines, cudaStream_t stream);

// Adds each row's count to its position: the last kernel of a step.
cudaError_t RunAdvance(const StepRows& rows, cudaStream_t stream);

// log_decay [tokens, G] <- -rate[g] softplus(u + bias[g]), with u in column + g of projected
// [tokens, stride]; rate and bias [G] (docs/MATH.md 5.2, forget "head").
cudaError_t RunLogDecay(const float* projected, int64_t stride, int64_t column, const double* rate,
                        const double* bias, int64_t tokens, int32_t memory_heads, float* log_decay,
                        cudaStream_t stream);

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_ELEMENTWISE_H_
