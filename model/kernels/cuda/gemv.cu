#include "model/kernels/cuda/gemv.h"

#include <cuda_runtime.h>

#include "model/kernels/cuda/warp.cuh"

namespace gma::cuda {

constexpr int kChunk = 8;  // weights that a lane loads at once: 16 bytes
constexpr int kGemvThreads = 128;

struct alignas(16) Chunk {
  __nv_bfloat16 x[kChunk];
};

template <int kTokens>
__global__ void GemvKernel(const Chunk* weights, int64_t outputs, int64_t chunks, const Chunk* x,
                           int32_t tokens, bool add, float* y, int64_t y_stride) {
  const int lane = threadIdx.x % kWarp;
  const int64_t n = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (n >= outputs) return;  // the whole warp
  float sums[kTokens] = {};
  for (int64_t c = lane; c < chunks; c += kWarp) {
    const Chunk weight = weights[n * chunks + c];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= tokens) break;
      const Chunk input = x[t * chunks + c];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        sums[t] += __bfloat162float(weight.x[i]) * __bfloat162float(input.x[i]);
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

template <int kTokens>
cudaError_t Launch(const __nv_bfloat16* weights, int64_t outputs, int64_t inputs,
                   const __nv_bfloat16* x, int32_t tokens, bool add, float* y, int64_t y_stride,
                   cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  const int64_t warps = kGemvThreads / kWarp;
  config.gridDim = dim3(static_cast<unsigned>((outputs + warps - 1) / warps));
  config.blockDim = dim3(kGemvThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, GemvKernel<kTokens>, reinterpret_cast<const Chunk*>(weights),
                            outputs, inputs / kChunk, reinterpret_cast<const Chunk*>(x), tokens,
                            add, y, y_stride);
}

}  // namespace

cudaError_t RunGemv(const __nv_bfloat16* weights, int64_t outputs, int64_t inputs,
                    const __nv_bfloat16* x, int32_t tokens, bool add, float* y, int64_t y_stride,
                    cudaStream_t stream) {
  if (tokens > kMaxGemvTokens || inputs % kChunk != 0) return cudaErrorInvalidValue;
  if (tokens == 0) return cudaSuccess;
  if (tokens == 1) return Launch<1>(weights, outputs, inputs, x, tokens, add, y, y_stride, stream);
  if (tokens == 2) return Launch<2>(weights, outputs, inputs, x, tokens, add, y, y_stride, stream);
  if (tokens <= 4) return Launch<4>(weights, outputs, inputs, x, tokens, add, y, y_stride, stream);
  return Launch<kMaxGemvTokens>(weights, outputs, inputs, x, tokens, add, y, y_stride, stream);
}

}  // namespace gma::cuda
