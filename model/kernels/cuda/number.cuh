// Numbers in device memory: float, or bfloat16. Sums are always float.
#ifndef GMA_MODEL_KERNELS_CUDA_NUMBER_CUH_
#define GMA_MODEL_KERNELS_CUDA_NUMBER_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace gma::cuda {

__device__ inline float Widen(float x) { return x; }
__device__ inline float Widen(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline void Narrow(float x, float& to) { to = x; }
__device__ inline void Narrow(float x, __nv_bfloat16& to) { to = __float2bfloat16_rn(x); }

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_NUMBER_CUH_
