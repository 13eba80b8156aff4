// The decoder as the engine sees it: tokens in, state rows updated in place, logits out.
#ifndef GMA_MODEL_DECODER_COMPILED_DECODER_H_
#define GMA_MODEL_DECODER_COMPILED_DECODER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/checkpoint/model_dir.h"
#include "model/state/row_memory.h"
#include "model/state/state_layout.h"
#include "model/state/state_pool.h"

namespace gma {

struct DecoderOptions {
  std::string device = "cpu";     // "cpu", or "cuda" where the build has it: the first GPU
  std::string decoder = "cpu";    // of device "cpu": "cpu", or "reference": slow, the oracle
  std::string weights = "int8";   // of matrices: "f32", "bf16", and with "cpu" "int8", "int4"
  int32_t max_batch_rows = 64;    // rows in one step at most
  int32_t max_step_tokens = 512;  // tokens in one step at most, all rows together
  bool compensated_state = false;
  int32_t threads = 0;  // 0: one for each processor
  // A request's bits depend on nothing but its tokens. The cpu decoder always does that; "cuda"
  // is slower with it.
  bool deterministic = false;
  bool eager = false;  // "cuda" without graphs
};

// One row's part in a step.
struct StepRow {
  int32_t state_row;                 // index in the pool
  absl::Span<const int32_t> tokens;  // 1 to max_step_tokens ids, in [0, vocab_size)
  bool want_logits;                  // of the last of `tokens`
};

struct StepBatch {
  absl::Span<const StepRow> rows;
};

// Everything is planned at Load: weights, scratch. THREADS: engine thread only.
class CompiledDecoder {
 public:
  // REQUIRES: `model` outlives the decoder; the reference reads weights from its files in place.
  // ERRORS: kInvalidArgument naming an option, its value and what is possible;
  // kFailedPrecondition without a GPU; kResourceExhausted naming the bytes that could not be had.
  static absl::StatusOr<std::unique_ptr<CompiledDecoder>> Load(const ModelDir& model,
                                                               const DecoderOptions& options);
  virtual ~CompiledDecoder() = default;

  // Feeds each row its tokens and writes logits [rows that want them, vocab_size], in the order of
  // the batch.
  // REQUIRES: state_row values are distinct, except that any number of rows may name
  //           pool.scratch_row(); tokens and rows within the options' limits; logits.size() fits.
  // ERRORS:   any error means that the step failed: the rows in it are lost, others are untouched.
  virtual absl::Status Step(const StepBatch& batch, StatePool& pool, absl::Span<float> logits) = 0;

  // The last step was one graph, captured before.
  virtual bool ran_graph() const { return false; }

  virtual const StateLayout& state_layout() const = 0;
  // Where the pool given to Step has to be.
  virtual RowMemory& row_memory() { return RowMemory::Host(); }
  // Of the device, all programs together; zeros on the host. THREADS: any.
  struct DeviceMemory {
    size_t used = 0, total = 0;  // bytes
  };
  virtual DeviceMemory device_memory() const { return {}; }
  // Bytes of all matrices as they are kept, which a step reads once.
  virtual size_t weight_bytes() const = 0;
  virtual int32_t vocab_size() const = 0;
};

}  // namespace gma

#endif  // GMA_MODEL_DECODER_COMPILED_DECODER_H_
