#include "model/decoder/batch_indices.h"

#include <algorithm>

#include "base/status_macros.h"

namespace gma {

absl::StatusOr<BatchIndices> BatchIndices::Create(const DecoderOptions& options) {
  BatchIndices indices;
  indices.rows_ = static_cast<size_t>(options.max_batch_rows);
  const size_t size = 4 * indices.rows_ + static_cast<size_t>(options.max_step_tokens);
  GMA_ASSIGN_OR_RETURN(indices.host_, cuda::PinnedArray<int32_t>::Create(size));
  GMA_ASSIGN_OR_RETURN(indices.device_, cuda::DeviceArray<int32_t>::Create(size));
  return indices;
}

cudaError_t BatchIndices::Set(const FlatBatch& batch, size_t padded, cudaStream_t stream) {
  const auto set = [&](size_t i, int32_t state_row, size_t first, size_t count) {
    host_[i] = state_row;
    host_[rows_ + i] = static_cast<int32_t>(first);
    host_[2 * rows_ + i] = static_cast<int32_t>(count);
  };
  for (size_t i = 0; i < batch.rows().size(); ++i) {
    const FlatBatch::Row& row = batch.rows()[i];
    set(i, row.state_row, static_cast<size_t>(row.first),
        row.padding ? 0 : static_cast<size_t>(row.count));
  }
  const std::vector<int32_t>& picked = batch.logit_tokens();
  std::copy(picked.begin(), picked.end(), host_.data() + 3 * rows_);
  std::copy(batch.tokens().begin(), batch.tokens().end(), host_.data() + 4 * rows_);
  size_t tokens = batch.tokens().size();
  for (size_t i = batch.rows().size(); i < padded; ++i, ++tokens) {
    set(i, 0, tokens, 0);
    host_[3 * rows_ + i] = static_cast<int32_t>(tokens);
    host_[4 * rows_ + tokens] = 0;
  }
  const size_t used = 4 * rows_ + tokens;
  return cudaMemcpyAsync(device_.data(), host_.data(), used * sizeof(int32_t),
                         cudaMemcpyHostToDevice, stream);
}

}  // namespace gma
