// What kernels are told of a batch, as one array of fixed address.
#ifndef GMA_MODEL_DECODER_BATCH_INDICES_H_
#define GMA_MODEL_DECODER_BATCH_INDICES_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "model/decoder/flat_batch.h"
#include "model/kernels/cuda/device_memory.h"

namespace gma {

// Move-only. THREADS: one at a time.
class BatchIndices {
 public:
  // ERRORS: kResourceExhausted naming the bytes that could not be had.
  static absl::StatusOr<BatchIndices> Create(const DecoderOptions& options);

  // Puts the copy of the batch to the device into `stream`, and behind the batch padding of one
  // token each, up to `padded` rows: it has no tokens to feed, and its token's logits are picked.
  // REQUIRES: the copy before is done; padded <= max_batch_rows and max_step_tokens.
  cudaError_t Set(const FlatBatch& batch, size_t padded, cudaStream_t stream);

  // In device memory, [rows] but for the last.
  const int32_t* state_row() const { return device_.data(); }
  const int32_t* first() const { return device_.data() + rows_; }
  const int32_t* count() const { return device_.data() + 2 * rows_; }   // 0: padding
  const int32_t* picked() const { return device_.data() + 3 * rows_; }  // tokens with logits
  const int32_t* tokens() const { return device_.data() + 4 * rows_; }  // [T]

 private:
  size_t rows_ = 0;
  cuda::PinnedArray<int32_t> host_;
  cuda::DeviceArray<int32_t> device_;
};

}  // namespace gma

#endif  // GMA_MODEL_DECODER_BATCH_INDICES_H_
