// The reference decoder: LibTorch operators for everything that has no state, the reference mixer
// for what has. Obvious code first; it is the oracle of every other decoder.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/decoder/compiled_decoder.h"
#include "model/decoder/layer_weights_torch.h"
#include "model/decoder/mixer_constants.h"
#include "model/decoder/parallel.h"
#include "model/kernels/reference/mixer_head.h"

namespace gma {
namespace {

// A batch laid out as T tokens below each other.
struct FlatBatch {
  struct Row {
    int64_t first, count;  // tokens [first, first + count) of the flat batch
    int64_t position;      // of the first one
    uint8_t* state;        // null for padding: it keeps no state, and its mixer output is 0
  };
  std::vector<int64_t> tokens;                // [T]
  std::vector<reference::RopeAngles> angles;  // [T]
  std::vector<Row> rows;
  std::vector<int64_t> logit_tokens;  // indices of the tokens whose logits are wanted
};

// x @ weight^T in the type of the weight, as float32.
at::Tensor Project(const at::Tensor& x, const at::Tensor& weight) {
  return at::linear(x.to(weight.scalar_type()), weight).to(at::kFloat);
}

class ReferenceDecoder final : public CompiledDecoder {
 public:
  ReferenceDecoder(const ModelDir& model, const DecoderOptions& options, StateLayout layout)
      : config_(model.config()),
        options_(options),
        layout_(std::move(layout)),
        weights_(LoadWeights(model, options.weights == "bf16" ? at::kBFloat16 : at::kFloat)) {
    for (int32_t n = 0; n < config_.num_layers; ++n) mixers_.emplace_back(model, n);
  }

  absl::Status Step(const StepBatch& batch, StatePool& pool, absl::Span<float> logits) override;
  const StateLayout& state_layout() const override { return layout_; }
  int32_t vocab_size() const override { return config_.vocab_size; }

 private:
  void CheckBatch(const StepBatch& batch, const StatePool& pool) const;
  FlatBatch Flatten(const StepBatch& batch, StatePool& pool) const;
  void Run(const FlatBatch& flat, absl::Span<float> logits) const;
  at::Tensor Norm(const at::Tensor& x, const at::Tensor& gain) const {
    return at::rms_norm(x, {config_.hidden_size}, gain, config_.rms_norm_eps);
  }
  // The recurrent part of layer n: projections [T, columns] to [T, H v].
  at::Tensor Mix(const FlatBatch& flat, int32_t n, const at::Tensor& projected) const;
  void MixHead(const FlatBatch& flat, const FlatBatch::Row& row, int32_t n, int32_t memory_head,
               const at::Tensor& projected, float* out) const;

  const ModelConfig config_;
  const DecoderOptions options_;
  const StateLayout layout_;
  const ModelWeights weights_;
  std::vector<LayerMixer> mixers_;
};

void ReferenceDecoder::CheckBatch(const StepBatch& batch, const StatePool& pool) const {
  GMA_CHECK(pool.row_bytes() == layout_.row_bytes());
  GMA_CHECK(batch.rows.size() <= static_cast<size_t>(options_.max_batch_rows));
  size_t tokens = 0;
  std::vector<int32_t> state_rows;
  for (const StepRow& row : batch.rows) {
    GMA_CHECK(0 <= row.state_row && row.state_row <= pool.scratch_row());
    if (row.state_row != pool.scratch_row()) state_rows.push_back(row.state_row);
    GMA_CHECK(!row.tokens.empty());
    tokens += row.tokens.size();
    for (const int32_t token : row.tokens) GMA_CHECK(0 <= token && token < config_.vocab_size);
  }
  GMA_CHECK(tokens <= static_cast<size_t>(options_.max_step_tokens));
  std::sort(state_rows.begin(), state_rows.end());
  GMA_CHECK(std::adjacent_find(state_rows.begin(), state_rows.end()) == state_rows.end());
}

FlatBatch ReferenceDecoder::Flatten(const StepBatch& batch, StatePool& pool) const {
  FlatBatch flat;
  for (const StepRow& row : batch.rows) {
    const bool padding = row.state_row == pool.scratch_row();
    uint8_t* state = padding ? nullptr : pool.row(row.state_row).data();
    int64_t position = 0;
    if (!padding) std::memcpy(&position, state, sizeof(position));
    const int64_t first = static_cast<int64_t>(flat.tokens.size());
    const int64_t count = static_cast<int64_t>(row.tokens.size());
    flat.rows.push_back({first, count, position, state});
    flat.tokens.insert(flat.tokens.end(), row.tokens.begin(), row.tokens.end());
    for (int64_t i = 0; i < count; ++i) {
      flat.angles.emplace_back(position + i, config_.rope_theta, config_.head_dim);
    }
    if (row.want_logits) flat.logit_tokens.push_back(first + count - 1);
  }
  return flat;
}

void ReferenceDecoder::MixHead(const FlatBatch& flat, const FlatBatch::Row& row, int32_t n,
                               int32_t memory_head, const at::Tensor& projected, float* out) const {
  const FusedColumns& columns = weights_.layers[n].columns;
  const LayerMixer& mixer = mixers_[n];
  const MixerConstants& constants = mixer.constants();
  const MixerState state = StateOfLayer(row.state, layout_.layers()[n]);
  const float* base = projected.const_data_ptr<float>();
  std::vector<float> log_decay(constants.memory_heads);
  for (int64_t i = 0; i < row.count; ++i) {
    const int64_t token = row.first + i;
    const float* line = base + token * columns.total;
    const auto at_column = [line](int64_t column) {
      return column == FusedColumns::kAbsent ? nullptr : line + column;
    };
    MixerInput input = {.position = row.position + i,
                        .route_q = at_column(columns.route_q),
                        .route_k = at_column(columns.route_k),
                        .value = at_column(columns.value),
                        .q = at_column(columns.q),
                        .k = at_column(columns.k),
                        .log_decay = nullptr,
                        .gate = at_column(columns.gate)};
    if (constants.forget_head) {
      mixer.LogDecay(at_column(columns.forget), log_decay.data());
      input.log_decay = log_decay.data();
    }
    reference::MixerHeadStep(constants, input, state, &flat.angles[token], memory_head,
                             out + token * constants.heads * constants.head_dim);
  }
}

at::Tensor ReferenceDecoder::Mix(const FlatBatch& flat, int32_t n,
                                 const at::Tensor& projected) const {
  const int64_t width = int64_t{config_.num_attention_heads} * config_.head_dim;
  const at::Tensor mixed = at::empty({projected.size(0), width}, projected.options()).zero_();
  float* out = mixed.mutable_data_ptr<float>();
  const int64_t rows = static_cast<int64_t>(flat.rows.size());
  // Memory heads outside, rows inside: the heads of a long prompt spread over the threads.
  ParallelFor(rows * config_.num_memory_heads, [&](int64_t item) {
    const FlatBatch::Row& row = flat.rows[item % rows];
    if (row.state == nullptr) return;
    MixHead(flat, row, n, static_cast<int32_t>(item / rows), projected, out);
  });
  return mixed;
}

void ReferenceDecoder::Run(const FlatBatch& flat, absl::Span<float> logits) const {
  const auto indices = [](const std::vector<int64_t>& list) {
    return at::from_blob(const_cast<int64_t*>(list.data()), {static_cast<int64_t>(list.size())},
                         at::TensorOptions().dtype(at::kLong));
  };
  at::Tensor x = at::index_select(weights_.embedding, 0, indices(flat.tokens));
  for (int32_t n = 0; n < config_.num_layers; ++n) {
    const LayerWeights& layer = weights_.layers[n];
    const at::Tensor projected = Project(Norm(x, layer.input_norm), layer.input_proj);
    x.add_(Project(Mix(flat, n, projected), layer.o_proj));
    const at::Tensor normed = Norm(x, layer.post_norm);
    const at::Tensor hidden = at::silu(Project(normed, layer.mlp_gate));
    x.add_(Project(hidden.mul_(Project(normed, layer.mlp_up)), layer.mlp_down));
  }
  if (flat.logit_tokens.empty()) return;
  const at::Tensor last = at::index_select(x, 0, indices(flat.logit_tokens));
  const at::Tensor result = Project(Norm(last, weights_.final_norm), weights_.head);
  std::memcpy(logits.data(), result.const_data_ptr<float>(), result.nbytes());
}

absl::Status ReferenceDecoder::Step(const StepBatch& batch, StatePool& pool,
                                    absl::Span<float> logits) {
  CheckBatch(batch, pool);
  if (batch.rows.empty()) return absl::OkStatus();
  try {
    const c10::InferenceMode inference;
    const FlatBatch flat = Flatten(batch, pool);
    GMA_CHECK(logits.size() >= flat.logit_tokens.size() * config_.vocab_size);
    Run(flat, logits);
    for (const FlatBatch::Row& row : flat.rows) {
      if (row.state == nullptr) continue;
      const int64_t position = row.position + row.count;
      std::memcpy(row.state, &position, sizeof(position));
    }
  } catch (const c10::Error& error) {
    return absl::DataLossError(
        absl::StrCat("a decoder step failed: ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return absl::DataLossError(absl::StrCat("a decoder step failed: ", error.what()));
  }
  return absl::OkStatus();
}

absl::Status ValidateOptions(const DecoderOptions& options) {
  if (options.device != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("device is \"", options.device, "\"; possible: \"cpu\""));
  }
  if (options.weights != "f32" && options.weights != "bf16") {
    return absl::InvalidArgumentError(
        absl::StrCat("weights is \"", options.weights, "\"; possible: \"f32\", \"bf16\""));
  }
  if (options.max_batch_rows < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_batch_rows is ", options.max_batch_rows, "; possible: 1 or more"));
  }
  if (options.max_step_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_step_tokens is ", options.max_step_tokens, "; possible: 1 or more"));
  }
  if (options.threads < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", options.threads, "; possible: 0 (all processors) or more"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CompiledDecoder>> CompiledDecoder::Load(
    const ModelDir& model, const DecoderOptions& options) {
  GMA_RETURN_IF_ERROR(ValidateOptions(options));
  GMA_ASSIGN_OR_RETURN(StateLayout layout,
                       StateLayout::Create(model.config(), options.compensated_state));
  try {
    const c10::InferenceMode inference;
    SetComputeThreads(options.threads);
    return std::make_unique<ReferenceDecoder>(model, options, std::move(layout));
  } catch (const c10::Error& error) {
    return absl::InternalError(
        absl::StrCat("the weights could not be prepared: ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the weights could not be prepared: ", error.what()));
  }
}

}  // namespace gma
