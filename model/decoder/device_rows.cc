#include "model/decoder/device_rows.h"

#include "model/kernels/cuda/device_memory.h"

namespace gma {
absl::StatusOr<uint8_t*> DeviceRows::Allocate(size_t bytes) {
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) != cudaSuccess) return cuda::NoMemory(bytes);
  cuda::CheckDevice(cudaMemsetAsync(data, 0, bytes, stream_));
  return static_cast<uint8_t*>(data);
}

void DeviceRows::Free(uint8_t* data, size_t /*bytes*/) {
  cudaStreamSynchronize(stream_);
  cudaFree(data);
}

void DeviceRows::Fill(uint8_t* to, uint8_t byte, size_t bytes) {
  cuda::CheckDevice(cudaMemsetAsync(to, byte, bytes, stream_));
}

void DeviceRows::Copy(uint8_t* to, const uint8_t* from, size_t bytes) {
  cuda::CheckDevice(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
}

void DeviceRows::Read(uint8_t* host, const uint8_t* from, size_t bytes) {
  cuda::CheckDevice(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_));
  cuda::CheckDevice(cudaStreamSynchronize(stream_));
}

void DeviceRows::Write(uint8_t* to, const uint8_t* host, size_t bytes) {
  // From memory that is not page-locked the call returns when it has been read.
  cuda::CheckDevice(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, stream_));
}

}  // namespace gma
