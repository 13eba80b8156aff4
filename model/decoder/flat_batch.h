// A checked batch, laid out as T tokens below each other. Every decoder's step starts with it.
#ifndef GMA_MODEL_DECODER_FLAT_BATCH_H_
#define GMA_MODEL_DECODER_FLAT_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/decoder/compiled_decoder.h"

namespace gma {

// Assign allocates nothing.
class FlatBatch {
 public:
  struct Row {
    int64_t first, count;  // tokens [first, first + count) of the flat batch
    int32_t state_row;     // index in the pool
    bool padding;          // it keeps no state, and what comes out of it is of no use
    // Of a pool in host memory:
    int64_t position = 0;      // of the first token
    uint8_t* state = nullptr;  // null for padding
  };

  FlatBatch(const DecoderOptions& options, int32_t vocab_size);

  // REQUIRES: what CompiledDecoder::Step does, and `pool` with rows of `layout`.
  void Assign(const StepBatch& batch, StatePool& pool, const StateLayout& layout,
              size_t logits_size);

  // Writes each row's new position. REQUIRES: the step of the batch is done, in host memory.
  void AdvancePositions() const;

  const std::vector<int32_t>& tokens() const { return tokens_; }  // [T]
  const std::vector<Row>& rows() const { return rows_; }
  // Indices of the tokens whose logits are wanted, in the order of the batch.
  const std::vector<int32_t>& logit_tokens() const { return logit_tokens_; }

 private:
  void Check(const StepBatch& batch, const StatePool& pool);

  const size_t max_batch_rows_, max_step_tokens_;
  const int32_t vocab_size_;
  std::vector<int32_t> tokens_, logit_tokens_;
  std::vector<int32_t> state_rows_;  // scratch of Check
  std::vector<Row> rows_;
};

}  // namespace gma

#endif  // GMA_MODEL_DECODER_FLAT_BATCH_H_
