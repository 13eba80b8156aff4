// Products of a few tokens with a matrix, T float or __nv_bfloat16: each weight is read once, by
// one lane, which multiplies it with all tokens; a warp makes one output channel. For more tokens
// than kMaxTokens a library's matrix product is the better one.
#ifndef GMA_MODEL_KERNELS_CUDA_GEMV_H_
#define GMA_MODEL_KERNELS_CUDA_GEMV_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace gma::cuda {

inline constexpr int32_t kMaxGemvTokens = 8;

// y[t, n] <- sum over k of weights[n, k] x[t, k], added to what is there with `add`; float32 sums.
// weights [outputs, inputs], x [tokens, inputs], y [tokens, y_stride], in device memory, weights
// and x aligned to 16 bytes. SAME BITS: a token's sums run in one order, whatever `tokens` is.
// ERRORS: cudaErrorInvalidValue for tokens > kMaxGemvTokens or inputs not a multiple of 16
// bytes; the launch's. THREADS: any.
template <typename T>
cudaError_t RunGemv(const T* weights, int64_t outputs, int64_t inputs, const T* x, int32_t tokens,
                    bool add, float* y, int64_t y_stride, cudaStream_t stream);

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_GEMV_H_
