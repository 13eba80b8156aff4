#include "model/kernels/cuda/elementwise.h"

#include <cuda_runtime.h>

#include <cmath>

#include "model/kernels/cuda/number.cuh"
#include "model/kernels/cuda/warp.cuh"

namespace gma::cuda {

constexpr int kThreads = 256;

template <typename T>
__global__ void EmbedKernel(const T* table, const int32_t* ids, int32_t width, float* x) {
  const int64_t token = blockIdx.x;
  const T* from = table + static_cast<int64_t>(ids[token]) * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    x[token * width + i] = Widen(from[i]);
  }
}

// A block a token: each warp sums a part of the squares, and all sum the parts.
template <typename T>
__global__ void RmsNormKernel(const float* x, const int32_t* picked, const float* gain, float eps,
                              int32_t width, T* out) {
  extern __shared__ float norm_shared[];  // [warps]
  const int64_t token = blockIdx.x;
  const float* from = x + (picked == nullptr ? token : picked[token]) * width;
  float square = 0;
  for (int i = threadIdx.x; i < width; i += blockDim.x) square += from[i] * from[i];
  square = WarpSum(square);
  if (threadIdx.x % kWarp == 0) norm_shared[threadIdx.x / kWarp] = square;
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  const float mine = lane < static_cast<int>(blockDim.x) / kWarp ? norm_shared[lane] : 0.0f;
  const float scale = 1.0f / sqrtf(WarpSum(mine) / static_cast<float>(width) + eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    Narrow(from[i] * (scale * gain[i]), out[token * width + i]);
  }
}

template <typename T>
__global__ void SwiGluKernel(const float* gate_up, int32_t width, T* out) {
  const int64_t token = blockIdx.y;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= width) return;
  const float gate = gate_up[token * 2 * width + i], up = gate_up[token * 2 * width + width + i];
  Narrow(gate / (1.0f + expf(-gate)) * up, out[token * width + i]);
}

template <typename T>
__global__ void RoundKernel(const float* x, int32_t width, T* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * width + i;
  if (i < width) Narrow(x[at], out[at]);
}

__device__ inline int64_t* PositionOf(const StepRows& rows, int row) {
  return reinterpret_cast<int64_t*>(rows.pool + rows.state_row[row] * rows.row_bytes);
}

__global__ void RotationAnglesKernel(StepRows rows, const double* frequency, int32_t half,
                                     float* cosines, float* sines) {
  const int row = blockIdx.x;
  const int64_t position = *PositionOf(rows, row);
  for (int64_t i = threadIdx.x; i < int64_t{rows.count[row]} * half; i += blockDim.x) {
    const double angle = static_cast<double>(position + i / half) * frequency[i % half];
    const int64_t at = int64_t{rows.first[row]} * half + i;
    cosines[at] = static_cast<float>(cos(angle));
    sines[at] = static_cast<float>(sin(angle));
  }
}

__global__ void AdvanceKernel(StepRows rows) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row < rows.rows) *PositionOf(rows, row) += rows.count[row];
}

__global__ void LogDecayKernel(const float* projected, int64_t stride, int64_t column,
                               const double* rate, const double* bias, int64_t count,
                               int32_t memory_heads, float* log_decay) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int64_t token = i / memory_heads, g = i % memory_heads;
  const double x = projected[token * stride + column + g] + bias[g];
  const double softplus = x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
  log_decay[i] = static_cast<float>(-rate[g] * softplus);
}

namespace {

cudaLaunchConfig_t Config(dim3 grid, size_t shared_bytes, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return config;
}

unsigned BlocksFor(int64_t count) {
  return static_cast<unsigned>((count + kThreads - 1) / kThreads);
}

}  // namespace

template <typename T>
cudaError_t RunEmbed(const T* table, const int32_t* ids, int64_t tokens, int32_t width, float* x,
                     cudaStream_t stream) {
  const cudaLaunchConfig_t config = Config(dim3(static_cast<unsigned>(tokens)), 0, stream);
  return cudaLaunchKernelEx(&config, EmbedKernel<T>, table, ids, width, x);
}

template <typename T>
cudaError_t RunRmsNorm(const float* x, const int32_t* picked, const float* gain, float eps,
                       int64_t tokens, int32_t width, T* out, cudaStream_t stream) {
  const cudaLaunchConfig_t config =
      Config(dim3(static_cast<unsigned>(tokens)), kThreads / kWarp * sizeof(float), stream);
  return cudaLaunchKernelEx(&config, RmsNormKernel<T>, x, picked, gain, eps, width, out);
}

template <typename T>
cudaError_t RunSwiGlu(const float* gate_up, int64_t tokens, int32_t width, T* out,
                      cudaStream_t stream) {
  const cudaLaunchConfig_t config =
      Config(dim3(BlocksFor(width), static_cast<unsigned>(tokens)), 0, stream);
  return cudaLaunchKernelEx(&config, SwiGluKernel<T>, gate_up, width, out);
}

template <typename T>
cudaError_t RunRound(const float* x, int64_t tokens, int32_t width, T* out, cudaStream_t stream) {
  const cudaLaunchConfig_t config =
      Config(dim3(BlocksFor(width), static_cast<unsigned>(tokens)), 0, stream);
  return cudaLaunchKernelEx(&config, RoundKernel<T>, x, width, out);
}

cudaError_t RunRotationAngles(const StepRows& rows, const double* frequency, int32_t half,
                              float* cosines, float* sines, cudaStream_t stream) {
  const cudaLaunchConfig_t config = Config(dim3(static_cast<unsigned>(rows.rows)), 0, stream);
  return cudaLaunchKernelEx(&config, RotationAnglesKernel, rows, frequency, half, cosines, sines);
}

cudaError_t RunAdvance(const StepRows& rows, cudaStream_t stream) {
  const cudaLaunchConfig_t config = Config(dim3(BlocksFor(rows.rows)), 0, stream);
  return cudaLaunchKernelEx(&config, AdvanceKernel, rows);
}

cudaError_t RunLogDecay(const float* projected, int64_t stride, int64_t column, const double* rate,
                        const double* bias, int64_t tokens, int32_t memory_heads, float* log_decay,
                        cudaStream_t stream) {
  const int64_t count = tokens * memory_heads;
  const cudaLaunchConfig_t config = Config(dim3(BlocksFor(count)), 0, stream);
  return cudaLaunchKernelEx(&config, LogDecayKernel, projected, stride, column, rate, bias, count,
                            memory_heads, log_decay);
}

#define GMA_INSTANTIATE(T)                                                                         \
  template cudaError_t RunEmbed(const T*, const int32_t*, int64_t, int32_t, float*, cudaStream_t); \
  template cudaError_t RunRmsNorm(const float*, const int32_t*, const float*, float, int64_t,      \
                                  int32_t, T*, cudaStream_t);                                      \
  template cudaError_t RunSwiGlu(const float*, int64_t, int32_t, T*, cudaStream_t);                \
  template cudaError_t RunRound(const float*, int64_t, int32_t, T*, cudaStream_t);
GMA_INSTANTIATE(float)
GMA_INSTANTIATE(__nv_bfloat16)
#undef GMA_INSTANTIATE

}  // namespace gma::cuda
