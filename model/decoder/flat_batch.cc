#include "model/decoder/flat_batch.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace gma {

FlatBatch::FlatBatch(const DecoderOptions& options, int32_t vocab_size)
    : max_batch_rows_(static_cast<size_t>(options.max_batch_rows)),
      max_step_tokens_(static_cast<size_t>(options.max_step_tokens)),
      vocab_size_(vocab_size) {
  tokens_.reserve(max_step_tokens_);
  logit_tokens_.reserve(max_batch_rows_);
  state_rows_.reserve(max_batch_rows_);
  rows_.reserve(max_batch_rows_);
}

void FlatBatch::Check(const StepBatch& batch, const StatePool& pool) {
  GMA_CHECK(batch.rows.size() <= max_batch_rows_);
  size_t tokens = 0;
  state_rows_.clear();
  for (const StepRow& row : batch.rows) {
    GMA_CHECK(0 <= row.state_row && row.state_row <= pool.scratch_row());
    if (row.state_row != pool.scratch_row()) state_rows_.push_back(row.state_row);
    GMA_CHECK(!row.tokens.empty());
    tokens += row.tokens.size();
    for (const int32_t token : row.tokens) GMA_CHECK(0 <= token && token < vocab_size_);
  }
  GMA_CHECK(tokens <= max_step_tokens_);
  std::sort(state_rows_.begin(), state_rows_.end());
  GMA_CHECK(std::adjacent_find(state_rows_.begin(), state_rows_.end()) == state_rows_.end());
}

void FlatBatch::Assign(const StepBatch& batch, StatePool& pool, const StateLayout& layout,
                       size_t logits_size) {
  GMA_CHECK(pool.row_bytes() == layout.row_bytes());
  Check(batch, pool);
  tokens_.clear();
  logit_tokens_.clear();
  rows_.clear();
  for (const StepRow& row : batch.rows) {
    const int64_t first = static_cast<int64_t>(tokens_.size());
    const int64_t count = static_cast<int64_t>(row.tokens.size());
    rows_.push_back({.first = first,
                     .count = count,
                     .state_row = row.state_row,
                     .padding = row.state_row == pool.scratch_row()});
    if (pool.on_host() && !rows_.back().padding) {
      rows_.back().state = pool.row(row.state_row).data();
      std::memcpy(&rows_.back().position, rows_.back().state, sizeof(int64_t));
    }
    tokens_.insert(tokens_.end(), row.tokens.begin(), row.tokens.end());
    if (row.want_logits) logit_tokens_.push_back(static_cast<int32_t>(first + count - 1));
  }
  GMA_CHECK(logits_size >= logit_tokens_.size() * static_cast<size_t>(vocab_size_));
}

void FlatBatch::AdvancePositions() const {
  for (const Row& row : rows_) {
    if (row.state == nullptr) continue;
    const int64_t position = row.position + row.count;
    std::memcpy(row.state, &position, sizeof(position));
  }
}

}  // namespace gma
