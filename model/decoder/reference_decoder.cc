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
#include "model/decoder/decoders.h"
#include "model/decoder/flat_batch.h"
#include "model/decoder/layer_weights_torch.h"
#include "model/decoder/mixer_constants.h"
#include "model/decoder/parallel.h"
#include "model/kernels/reference/mixer_head.h"

namespace gma {
namespace {

// x @ weight^T in the type of the weight, as float32.
at::Tensor Project(const at::Tensor& x, const at::Tensor& weight) {
  return at::linear(x.to(weight.scalar_type()), weight).to(at::kFloat);
}

class ReferenceDecoder final : public CompiledDecoder {
 public:
  ReferenceDecoder(const ModelDir& model, const DecoderOptions& options, StateLayout layout)
      : config_(model.config()),
        layout_(std::move(layout)),
        flat_(options, config_.vocab_size),
        weights_(LoadWeights(model, options.weights == "bf16" ? at::kBFloat16 : at::kFloat)) {
    for (int32_t n = 0; n < config_.num_layers; ++n) mixers_.emplace_back(model, n);
  }

  absl::Status Step(const StepBatch& batch, StatePool& pool, absl::Span<float> logits) override;
  const StateLayout& state_layout() const override { return layout_; }
  int32_t vocab_size() const override { return config_.vocab_size; }
  size_t weight_bytes() const override { return weights_.matrix_bytes; }

 private:
  void Run(absl::Span<float> logits) const;
  at::Tensor Norm(const at::Tensor& x, const at::Tensor& gain) const {
    return at::rms_norm(x, {config_.hidden_size}, gain, config_.rms_norm_eps);
  }
  // The recurrent part of layer n: projections [T, columns] to [T, H v].
  at::Tensor Mix(int32_t n, const at::Tensor& projected) const;
  void MixHead(const FlatBatch::Row& row, int32_t n, int32_t memory_head,
               const at::Tensor& projected, float* out) const;

  const ModelConfig config_;
  const StateLayout layout_;
  FlatBatch flat_;
  std::vector<reference::RopeAngles> angles_;  // [T] of flat_
  const ModelWeights weights_;
  std::vector<LayerMixer> mixers_;
};

void ReferenceDecoder::MixHead(const FlatBatch::Row& row, int32_t n, int32_t memory_head,
                               const at::Tensor& projected, float* out) const {
  const InputColumns& columns = weights_.layers[n].columns;
  const LayerMixer& mixer = mixers_[n];
  const MixerConstants& constants = mixer.constants();
  const MixerState state = StateOfLayer(row.state, layout_.layers()[n]);
  const float* base = projected.const_data_ptr<float>();
  std::vector<float> log_decay(constants.memory_heads);  // of this head alone
  for (int64_t i = 0; i < row.count; ++i) {
    const int64_t token = row.first + i;
    const float* line = base + token * columns.total;
    const auto at_column = [line](int64_t column) {
      return column == InputColumns::kAbsent ? nullptr : line + column;
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
      log_decay[memory_head] = mixer.LogDecay(memory_head, at_column(columns.forget)[memory_head]);
      input.log_decay = log_decay.data();
    }
    reference::MixerHeadStep(constants, input, state, &angles_[token], memory_head,
                             out + token * constants.heads * constants.head_dim);
  }
}

at::Tensor ReferenceDecoder::Mix(int32_t n, const at::Tensor& projected) const {
  const int64_t width = int64_t{config_.num_attention_heads} * config_.head_dim;
  const at::Tensor mixed = at::empty({projected.size(0), width}, projected.options()).zero_();
  float* out = mixed.mutable_data_ptr<float>();
  const int64_t rows = static_cast<int64_t>(flat_.rows().size());
  // Memory heads outside, rows inside: the heads of a long prompt spread over the threads.
  ParallelFor(rows * config_.num_memory_heads, [&](int64_t item) {
    const FlatBatch::Row& row = flat_.rows()[item % rows];
    if (row.state == nullptr) return;
    MixHead(row, n, static_cast<int32_t>(item / rows), projected, out);
  });
  return mixed;
}

void ReferenceDecoder::Run(absl::Span<float> logits) const {
  const auto indices = [](const std::vector<int32_t>& list) {
    return at::from_blob(const_cast<int32_t*>(list.data()), {static_cast<int64_t>(list.size())},
                         at::TensorOptions().dtype(at::kInt));
  };
  at::Tensor x = at::index_select(weights_.embedding, 0, indices(flat_.tokens()));
  for (int32_t n = 0; n < config_.num_layers; ++n) {
    const LayerWeights& layer = weights_.layers[n];
    const at::Tensor projected = Project(Norm(x, layer.input_norm), layer.input_proj);
    x.add_(Project(Mix(n, projected), layer.o_proj));
    const at::Tensor normed = Norm(x, layer.post_norm);
    const at::Tensor hidden = at::silu(Project(normed, layer.mlp_gate));
    x.add_(Project(hidden.mul_(Project(normed, layer.mlp_up)), layer.mlp_down));
  }
  if (flat_.logit_tokens().empty()) return;
  const at::Tensor last = at::index_select(x, 0, indices(flat_.logit_tokens()));
  const at::Tensor result = Project(Norm(last, weights_.final_norm), weights_.head);
  std::memcpy(logits.data(), result.const_data_ptr<float>(), result.nbytes());
}

absl::Status ReferenceDecoder::Step(const StepBatch& batch, StatePool& pool,
                                    absl::Span<float> logits) {
  flat_.Assign(batch, pool, layout_, logits.size());
  if (batch.rows.empty()) return absl::OkStatus();
  try {
    const c10::InferenceMode inference;
    angles_.clear();
    for (const FlatBatch::Row& row : flat_.rows()) {
      for (int64_t i = 0; i < row.count; ++i) {
        angles_.emplace_back(row.position + i, config_.rope_theta, config_.head_dim);
      }
    }
    Run(logits);
  } catch (const c10::Error& error) {
    return absl::DataLossError(
        absl::StrCat("a decoder step failed: ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return absl::DataLossError(absl::StrCat("a decoder step failed: ", error.what()));
  }
  flat_.AdvancePositions();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CompiledDecoder>> LoadReferenceDecoder(
    const ModelDir& model, const DecoderOptions& options) {
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
