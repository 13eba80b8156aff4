#include "model/decoder/device_rows.h"

#include "base/check.h"
#include "base/log.h"
#include "model/kernels/cuda/device_memory.h"

namespace gma {
namespace {

void Must(cudaError_t error) {
  if (error == cudaSuccess) return;
  GMA_LOG(kError, "state_copy_failed", {{"error", cudaGetErrorString(error)}});
  GMA_CHECK(error == cudaSuccess);
}

}  // namespace

absl::StatusOr<uint8_t*> DeviceRows::Allocate(size_t bytes) {
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) != cudaSuccess) return cuda::NoMemory(bytes);
  Must(cudaMemsetAsync(data, 0, bytes, stream_));
  return static_cast<uint8_t*>(data);
}

void DeviceRows::Free(uint8_t* data, size_t /*bytes*/) {
  cudaStreamSynchronize(stream_);
  cudaFree(data);
}

void DeviceRows::Fill(uint8_t* to, uint8_t byte, size_t bytes) {
  Must(cudaMemsetAsync(to, byte, bytes, stream_));
}

void DeviceRows::Copy(uint8_t* to, const uint8_t* from, size_t bytes) {
  Must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
}

void DeviceRows::Read(uint8_t* host, const uint8_t* from, size_t bytes) {
  Must(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_));
  Must(cudaStreamSynchronize(stream_));
}

void DeviceRows::Write(uint8_t* to, const uint8_t* host, size_t bytes) {
  // From memory that is not page-locked the call returns when it has been read.
  Must(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, stream_));
}

}  // namespace gma
