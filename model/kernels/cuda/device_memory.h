// Arrays in device memory, and in host memory that the device copies from and to by itself.
#ifndef GMA_MODEL_KERNELS_CUDA_DEVICE_MEMORY_H_
#define GMA_MODEL_KERNELS_CUDA_DEVICE_MEMORY_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/log.h"

namespace gma::cuda {

// OK, or kInternal with CUDA's words behind `what`.
inline absl::Status ToStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

// Ends the process when the device is lost: no call succeeds any more, and no row can be read.
inline void CheckDevice(cudaError_t error) {
  if (error == cudaSuccess) return;
  GMA_LOG(kError, "device_lost", {{"error", cudaGetErrorString(error)}});
  GMA_CHECK(error == cudaSuccess);
}

// kResourceExhausted naming the bytes asked for and those that are free.
inline absl::Status NoMemory(size_t bytes) {
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return absl::ResourceExhaustedError(absl::StrCat("no ", bytes, " bytes of device memory: ", free,
                                                   " of ", total, " bytes are free"));
}

// Owns the array. Move-only. THREADS: one at a time.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;  // of nothing
  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceArray() { cudaFree(data_); }

  // What it holds is not set.
  // ERRORS: as NoMemory.
  static absl::StatusOr<DeviceArray> Create(size_t size) {
    DeviceArray array;
    if (size == 0) return array;
    void* data = nullptr;
    if (cudaMalloc(&data, size * sizeof(T)) != cudaSuccess) return NoMemory(size * sizeof(T));
    array.data_ = static_cast<T*>(data);
    array.size_ = size;
    return array;
  }
  static absl::StatusOr<DeviceArray> Copy(absl::Span<const T> numbers) {
    absl::StatusOr<DeviceArray> array = Create(numbers.size());
    if (!array.ok()) return array;
    if (const absl::Status set = array->Set(numbers); !set.ok()) return set;
    return array;
  }

  // REQUIRES: numbers.size() == size(). Waits until it is done, as Get.
  absl::Status Set(absl::Span<const T> numbers) {
    return ToStatus(cudaMemcpy(data_, numbers.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
                    "a copy to the device failed");
  }
  absl::Status Get(absl::Span<T> numbers) const {
    return ToStatus(cudaMemcpy(numbers.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
                    "a copy from the device failed");
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Page-locked host memory. Move-only.
template <typename T>
class PinnedArray {
 public:
  PinnedArray() = default;  // of nothing
  PinnedArray(PinnedArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PinnedArray& operator=(PinnedArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~PinnedArray() { cudaFreeHost(data_); }

  // ERRORS: kResourceExhausted naming the bytes asked for.
  static absl::StatusOr<PinnedArray> Create(size_t size) {
    PinnedArray array;
    void* data = nullptr;
    if (cudaMallocHost(&data, size * sizeof(T)) != cudaSuccess) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no ", size * sizeof(T), " bytes of page-locked memory"));
    }
    array.data_ = static_cast<T*>(data);
    array.size_ = size;
    return array;
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_DEVICE_MEMORY_H_
