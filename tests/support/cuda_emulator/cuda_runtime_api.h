// So much of CUDA's runtime as our kernels use, on the CPU: the kernels' sources are compiled as
// C++ against this folder, and their results are checked where there is no GPU. A block's threads
// are fibers that change places at barriers and shuffles, blocks run one after the other. What a
// block finds in shared memory is NaN, and a barrier or shuffle that not all threads reach is
// fatal, so that such faults show. Races between barriers, memory outside of allocations (but for
// the address sanitizer) and speed do not show.
//
// THREADS: one at a time.
#ifndef GMA_TESTS_SUPPORT_CUDA_EMULATOR_CUDA_RUNTIME_API_H_
#define GMA_TESTS_SUPPORT_CUDA_EMULATOR_CUDA_RUNTIME_API_H_

#define GMA_CUDA_EMULATED  // "device" memory is the host's

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned of_x = 1, unsigned of_y = 1, unsigned of_z = 1) : x(of_x), y(of_y), z(of_z) {}
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace gma::cuda_emulator {

// Does the work, or keeps it while a graph is captured.
void Do(std::function<void()> work);

// What copies, launches and synchronisation return from now on: a device that is lost.
inline cudaError_t lost = cudaSuccess;

// Runs `thread` once for each thread of each block, with the variables of cuda_runtime.h set.
void RunGrid(const cudaLaunchConfig_t& config, const std::function<void()>& thread);

}  // namespace gma::cuda_emulator

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid value or out of memory";
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  constexpr size_t kMost = size_t{1} << 40;
  *pointer = bytes > kMost ? nullptr : std::malloc(bytes);
  return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t /*stream*/) {
  gma::cuda_emulator::Do([=] { cudaMemcpy(to, from, bytes, kind); });
  return gma::cuda_emulator::lost;
}
inline cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t /*stream*/) {
  gma::cuda_emulator::Do([=] { std::memset(to, byte, bytes); });
  return gma::cuda_emulator::lost;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t /*stream*/) {
  return gma::cuda_emulator::lost;
}
inline cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return cudaMalloc(pointer, bytes);
}
inline cudaError_t cudaFreeHost(void* pointer) { return cudaFree(pointer); }
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = size_t{1} << 40;
  return cudaSuccess;
}
// Graphs: all streams are one.
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
using cudaGraph_t = std::vector<std::function<void()>>*;
using cudaGraphExec_t = cudaGraph_t;
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph,
                                        unsigned long long /*flags*/) {
  *made = new std::vector<std::function<void()>>(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaGraphDestroy(graph); }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t /*stream*/) {
  for (const auto& work : *graph) work();
  return cudaSuccess;
}

#endif  // GMA_TESTS_SUPPORT_CUDA_EMULATOR_CUDA_RUNTIME_API_H_
