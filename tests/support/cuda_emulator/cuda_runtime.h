// The language of CUDA's kernels on the CPU; see cuda_runtime_api.h.
#ifndef GMA_TESTS_SUPPORT_CUDA_EMULATOR_CUDA_RUNTIME_H_
#define GMA_TESTS_SUPPORT_CUDA_EMULATOR_CUDA_RUNTIME_H_

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(threads)
// Shared memory is an array that is declared `extern` in a kernel: here the emulator's, by its
// name.
#define __shared__

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

namespace gma::cuda_emulator {

inline constexpr size_t kSharedFloats = 227 * 1024 / sizeof(float);  // of sm_90

void AwaitBlock();
// The number that lane ^ distance of this warp has brought.
float Exchange(float x, int distance);

}  // namespace gma::cuda_emulator

inline void __syncthreads() { gma::cuda_emulator::AwaitBlock(); }
inline float __shfl_xor_sync(unsigned /*mask*/, float x, int distance) {
  return gma::cuda_emulator::Exchange(x, distance);
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  const bool fits = static_cast<size_t>(bytes) <= gma::cuda_emulator::kSharedFloats * sizeof(float);
  return fits ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->dynamicSmemBytes > gma::cuda_emulator::kSharedFloats * sizeof(float)) {
    return cudaErrorInvalidValue;
  }
  const std::tuple<Parameters...> all(std::forward<Arguments>(arguments)...);
  gma::cuda_emulator::Do([config = *config, kernel, all] {
    gma::cuda_emulator::RunGrid(config, [&] { std::apply(kernel, all); });
  });
  return gma::cuda_emulator::lost;
}

#endif  // GMA_TESTS_SUPPORT_CUDA_EMULATOR_CUDA_RUNTIME_H_
