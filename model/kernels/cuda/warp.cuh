// Sums and maxima over the 32 lanes of a warp, the same in every lane, always in the same order.
#ifndef GMA_MODEL_KERNELS_CUDA_WARP_CUH_
#define GMA_MODEL_KERNELS_CUDA_WARP_CUH_

#include <cuda_runtime.h>

namespace gma::cuda {

constexpr int kWarp = 32;

__device__ inline float WarpSum(float x) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, distance);
  }
  return x;
}

__device__ inline float WarpMax(float x) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
  }
  return x;
}

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_WARP_CUH_
