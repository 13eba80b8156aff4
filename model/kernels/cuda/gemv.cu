#include "model/kernels/cuda/gemv.h"

#include <cuda_runtime.h>

#include "model/kernels/cuda/number.cuh"
#include "model/kernels/cuda/warp.cuh"

namespace gma::cuda {

constexpr int kGemvThreads = 128;

template <typename T>
constexpr int kChunk = 16 / sizeof(T);  // weights that a lane loads at once

template <typename T>
struct alignas(16) Chunk {
  T x[kChunk<T>];
};

template <typename T, int kTokens>
__global__ void GemvKernel(const Chunk<T>* weights, int64_t outputs, int64_t chunks,
                           const Chunk<T>* x, int32_t tokens, bool add, float* y,
                           int64_t y_stride) {
  const int lane = threadIdx.x % kWarp;
  const int64_t n = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (n >= outputs) return;  // the whole warp
  float sums[kTokens] = {};
  for (int64_t c = lane; c < chunks; c += kWarp) {
    const Chunk<T> weight = weights[n * chunks + c];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= tokens) break;
      const Chunk<T> input = x[t * chunks + c];
#pragma unroll
      for (int i = 0; i < kChunk<T>; ++i) {
        sums[t] += Widen(weight.x[i]) * Widen(input.x[i]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= tokens) break;
    const float sum = WarpSum(sums[t]);
    float* to = y + t * y_stride + n;
    if (lane == 0) *to = add ? *to + sum : sum;
  }
}

namespace {

template <int kTokens, typename T>
cudaError_t Launch(const T* weights, int64_t outputs, int64_t inputs, const T* x, int32_t tokens,
                   bool add, float* y, int64_t y_stride, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  const int64_t warps = kGemvThreads / kWarp;
  config.gridDim = dim3(static_cast<unsigned>((outputs + warps - 1) / warps));
  config.blockDim = dim3(kGemvThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, (GemvKernel<T, kTokens>),
                            reinterpret_cast<const Chunk<T>*>(weights), outputs, inputs / kChunk<T>,
                            reinterpret_cast<const Chunk<T>*>(x), tokens, add, y, y_stride);
}

}  // namespace

template <typename T>
cudaError_t RunGemv(const T* weights, int64_t outputs, int64_t inputs, const T* x, int32_t tokens,
                    bool add, float* y, int64_t y_stride, cudaStream_t stream) {
  if (tokens > kMaxGemvTokens || inputs % kChunk<T> != 0) return cudaErrorInvalidValue;
  if (tokens == 0) return cudaSuccess;
  if (tokens == 1) return Launch<1>(weights, outputs, inputs, x, tokens, add, y, y_stride, stream);
  if (tokens == 2) return Launch<2>(weights, outputs, inputs, x, tokens, add, y, y_stride, stream);
  if (tokens <= 4) return Launch<4>(weights, outputs, inputs, x, tokens, add, y, y_stride, stream);
  return Launch<kMaxGemvTokens>(weights, outputs, inputs, x, tokens, add, y, y_stride, stream);
}

template cudaError_t RunGemv(const float*, int64_t, int64_t, const float*, int32_t, bool, float*,
                             int64_t, cudaStream_t);
template cudaError_t RunGemv(const __nv_bfloat16*, int64_t, int64_t, const __nv_bfloat16*, int32_t,
                             bool, float*, int64_t, cudaStream_t);

}  // namespace gma::cuda
