// Matrix products on a GPU: our own for a few tokens, LibTorch's for more.
#ifndef GMA_MODEL_DECODER_DEVICE_PRODUCT_H_
#define GMA_MODEL_DECODER_DEVICE_PRODUCT_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gma {

// THREADS: one at a time.
class DeviceProduct {
 public:
  // `deterministic`: a token's numbers depend on nothing but the token. For many tokens this is
  // slow: weights are read again for every few of them.
  // ERRORS: kFailedPrecondition when there is no GPU, or none that LibTorch can use.
  static absl::StatusOr<std::unique_ptr<DeviceProduct>> Create(bool deterministic);
  ~DeviceProduct();

  // Of the products; what belongs between them goes there too.
  cudaStream_t stream() const { return stream_; }

  // Whether Run with so many tokens can be part of a graph, once it was run.
  bool MayCapture(int64_t tokens, int64_t inputs) const;

  // y [tokens, outputs] <- x weights^T, added to what is there with `add`; float32 sums. T: float
  // or __nv_bfloat16. weights [outputs, inputs], x [tokens, inputs]; device memory.
  // REQUIRES: kAlignment divides inputs where it is deterministic. ERRORS: kDataLoss.
  template <typename T>
  absl::Status Run(const T* weights, int64_t outputs, int64_t inputs, const T* x, int64_t tokens,
                   bool add, float* y);
  static constexpr int64_t kAlignment = 8;

 private:
  struct Library;

  bool IsOurs(int64_t tokens, int64_t inputs) const;
  DeviceProduct(bool deterministic, std::unique_ptr<Library> library, cudaStream_t stream);

  const bool deterministic_;
  const std::unique_ptr<Library> library_;
  const cudaStream_t stream_;
};

}  // namespace gma

#endif  // GMA_MODEL_DECODER_DEVICE_PRODUCT_H_
