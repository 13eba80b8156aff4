// The cuda decoder: weights, activations and state rows in device memory. A step is one row of
// kernels in one stream, between one copy of what the batch is to the device and one of the logits
// back. Where every row has one token, the kernels are a graph, one for each power of two of rows:
// it finds the rows through indices at a fixed address, and padding fills the last ones.
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/decoder/batch_indices.h"
#include "model/decoder/cuda_weights.h"
#include "model/decoder/decoders.h"
#include "model/decoder/device_product.h"
#include "model/decoder/device_rows.h"
#include "model/decoder/flat_batch.h"
#include "model/decoder/step_graph.h"
#include "model/kernels/cuda/elementwise.h"
#include "model/kernels/cuda/mixer.h"

namespace gma {
namespace {

using cuda::DeviceArray;
using cuda::PinnedArray;

absl::Status Launched(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("a decoder step failed: ", cudaGetErrorString(error)));
}

// T: float or __nv_bfloat16, the type of matrices and of what they are multiplied with.
template <typename T>
class CudaDecoder final : public CompiledDecoder {
 public:
  static absl::StatusOr<std::unique_ptr<CompiledDecoder>> Create(
      const ModelDir& model, const DecoderOptions& options, StateLayout layout,
      std::unique_ptr<DeviceProduct> product);

  absl::Status Step(const StepBatch& batch, StatePool& pool, absl::Span<float> logits) override {
    absl::Status status = Run(batch, pool, logits);
    // What failed this step alone is over now; a device that is lost fails again.
    if (!status.ok()) cuda::CheckDevice(cudaStreamSynchronize(stream_));
    return status;
  }
  const StateLayout& state_layout() const override { return layout_; }
  bool ran_graph() const override { return ran_graph_; }
  RowMemory& row_memory() override { return row_memory_; }
  DeviceMemory device_memory() const override {
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return {.used = total - free, .total = total};
  }
  size_t weight_bytes() const override { return weights_.matrix_bytes; }
  int32_t vocab_size() const override { return config_.vocab_size; }

 private:
  CudaDecoder(const ModelDir& model, const DecoderOptions& options, StateLayout layout,
              std::unique_ptr<DeviceProduct> product)
      : config_(model.config()),
        layout_(std::move(layout)),
        product_(std::move(product)),
        stream_(product_->stream()),
        row_memory_(stream_),
        max_rows_(std::min(options.max_batch_rows, options.max_step_tokens)),
        graphs_on_(!options.eager),
        flat_(options, config_.vocab_size) {}

  absl::Status Allocate(const DecoderOptions& options);
  absl::Status Run(const StepBatch& batch, StatePool& pool, absl::Span<float> logits);
  // Rows of the graph that does for this batch; 0: it takes a step of its own.
  int32_t GraphRows(const StepBatch& batch) const;
  // The kernels of a step with tokens_ tokens, `picked` of which want logits.
  absl::Status Launch(const cuda::StepRows& rows, int64_t picked);
  absl::Status LaunchGraph(const cuda::StepRows& rows);
  absl::Status Embed();
  absl::Status RunLayer(const CudaLayerWeights<T>& layer, const cuda::StepRows& rows);
  absl::Status Mix(const CudaLayerWeights<T>& layer, const cuda::StepRows& rows);
  absl::Status ReadLogits(absl::Span<float> logits);
  absl::Status Norm(const DeviceArray<float>& gain, const int32_t* picked, int64_t tokens) {
    return Launched(cuda::RunRmsNorm(x_.data(), picked, gain.data(),
                                     static_cast<float>(config_.rms_norm_eps), tokens,
                                     config_.hidden_size, normed_.data(), stream_));
  }
  absl::Status Product(const DeviceMatrix<T>& weights, const T* x, int64_t tokens, bool add,
                       const DeviceArray<float>& y) {
    return product_->Run(weights.numbers.data(), weights.outputs, weights.inputs, x, tokens, add,
                         y.data());
  }

  const ModelConfig config_;
  const StateLayout layout_;
  const std::unique_ptr<DeviceProduct> product_;
  const cudaStream_t stream_;
  DeviceRows row_memory_;
  const int32_t max_rows_;  // with one token each
  bool graphs_on_;
  std::map<int32_t, StepGraph> graphs_;   // by rows; one that is not captured yet was run once
  const uint8_t* graphs_pool_ = nullptr;  // of all graphs
  bool ran_graph_ = false;
  FlatBatch flat_;
  int64_t tokens_ = 0;  // of the step, padding of a graph with them
  CudaWeights<T> weights_;
  BatchIndices indices_;
  DeviceArray<double> frequencies_;                     // [v / 2] of RoPE
  DeviceArray<float> rope_cos_, rope_sin_;              // [T, v / 2]
  DeviceArray<float> x_, projected_, mixed_, gate_up_;  // [T, d], [T, columns], [T, H v], [T, 2 f]
  DeviceArray<float> log_decay_;                        // [T, G]
  DeviceArray<T> normed_, rounded_, hidden_;            // [T, d], [T, H v], [T, f]
  DeviceArray<float> logits_;                           // [rows, vocab]
  PinnedArray<float> host_logits_;
};

template <typename T>
absl::StatusOr<std::unique_ptr<CompiledDecoder>> CudaDecoder<T>::Create(
    const ModelDir& model, const DecoderOptions& options, StateLayout layout,
    std::unique_ptr<DeviceProduct> product) {
  std::unique_ptr<CudaDecoder> decoder(
      new CudaDecoder(model, options, std::move(layout), std::move(product)));
  GMA_ASSIGN_OR_RETURN(decoder->weights_, LoadCudaWeights<T>(model, decoder->layout_));
  model.LetGoOfPages();  // everything is on the device
  GMA_RETURN_IF_ERROR(decoder->Allocate(options));
  return decoder;
}

template <typename T>
absl::Status CudaDecoder<T>::Allocate(const DecoderOptions& options) {
  const size_t t = static_cast<size_t>(options.max_step_tokens);
  const size_t d = static_cast<size_t>(config_.hidden_size);
  const size_t f = static_cast<size_t>(config_.intermediate_size);
  const size_t width =
      static_cast<size_t>(config_.num_attention_heads) * static_cast<size_t>(config_.head_dim);
  const size_t half = static_cast<size_t>(config_.head_dim / 2);
  const size_t logits =
      static_cast<size_t>(options.max_batch_rows) * static_cast<size_t>(config_.vocab_size);
  int64_t columns = 0;
  for (const auto& layer : weights_.layers) columns = std::max(columns, layer.columns.total);
  std::vector<double> frequencies(half);
  for (size_t i = 0; i < half; ++i) {
    frequencies[i] = std::pow(config_.rope_theta, -2.0 * static_cast<double>(i) / config_.head_dim);
  }
  GMA_ASSIGN_OR_RETURN(indices_, BatchIndices::Create(options));
  GMA_ASSIGN_OR_RETURN(frequencies_, DeviceArray<double>::Copy(frequencies));
  GMA_ASSIGN_OR_RETURN(rope_cos_, DeviceArray<float>::Create(t * half));
  GMA_ASSIGN_OR_RETURN(rope_sin_, DeviceArray<float>::Create(t * half));
  GMA_ASSIGN_OR_RETURN(x_, DeviceArray<float>::Create(t * d));
  GMA_ASSIGN_OR_RETURN(projected_, DeviceArray<float>::Create(t * static_cast<size_t>(columns)));
  GMA_ASSIGN_OR_RETURN(mixed_, DeviceArray<float>::Create(t * width));
  // The mixer leaves padding alone.
  GMA_RETURN_IF_ERROR(mixed_.Set(std::vector<float>(mixed_.size())));
  GMA_ASSIGN_OR_RETURN(gate_up_, DeviceArray<float>::Create(t * 2 * f));
  GMA_ASSIGN_OR_RETURN(
      log_decay_, DeviceArray<float>::Create(t * static_cast<size_t>(config_.num_memory_heads)));
  GMA_ASSIGN_OR_RETURN(normed_, DeviceArray<T>::Create(t * d));
  if constexpr (!std::is_same_v<T, float>) {
    GMA_ASSIGN_OR_RETURN(rounded_, DeviceArray<T>::Create(t * width));
  }
  GMA_ASSIGN_OR_RETURN(hidden_, DeviceArray<T>::Create(t * f));
  GMA_ASSIGN_OR_RETURN(logits_, DeviceArray<float>::Create(logits));
  GMA_ASSIGN_OR_RETURN(host_logits_, PinnedArray<float>::Create(logits));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaDecoder<T>::Embed() {
  const DeviceMatrix<T>& table =
      weights_.embedding.outputs == 0 ? weights_.head : weights_.embedding;
  return Launched(cuda::RunEmbed(table.numbers.data(), indices_.tokens(), tokens_,
                                 config_.hidden_size, x_.data(), stream_));
}

template <typename T>
absl::Status CudaDecoder<T>::Mix(const CudaLayerWeights<T>& layer, const cuda::StepRows& rows) {
  const InputColumns& columns = layer.columns;
  if (columns.forget != InputColumns::kAbsent) {
    GMA_RETURN_IF_ERROR(Launched(cuda::RunLogDecay(
        projected_.data(), columns.total, columns.forget, layer.forget_rate.data(),
        layer.forget_bias.data(), tokens_, config_.num_memory_heads, log_decay_.data(), stream_)));
  }
  static_assert(InputColumns::kAbsent == cuda::MixerBatch::kAbsent);
  const cuda::MixerBatch batch = {
      .pool = rows.pool,
      .row_bytes = rows.row_bytes,
      .rows = rows.rows,
      .state_row = rows.state_row,
      .first = rows.first,
      .count = rows.count,
      .projected = projected_.data(),
      .stride = columns.total,
      .route_q = columns.route_q,
      .route_k = columns.route_k,
      .value = columns.value,
      .q = columns.q,
      .k = columns.k,
      .gate = columns.gate,
      .log_decay = log_decay_.data(),
      .rope_cos = rope_cos_.data(),
      .rope_sin = rope_sin_.data(),
      .out = mixed_.data(),
      .out_stride = int64_t{config_.num_attention_heads} * config_.head_dim};
  return Launched(cuda::RunMixer(layer.mixer->layer(), batch, stream_));
}

template <typename T>
absl::Status CudaDecoder<T>::RunLayer(const CudaLayerWeights<T>& layer,
                                      const cuda::StepRows& rows) {
  GMA_RETURN_IF_ERROR(Norm(layer.input_norm, nullptr, tokens_));
  GMA_RETURN_IF_ERROR(Product(layer.input_proj, normed_.data(), tokens_, false, projected_));
  GMA_RETURN_IF_ERROR(Mix(layer, rows));
  const T* mixed;
  if constexpr (std::is_same_v<T, float>) {
    mixed = mixed_.data();
  } else {
    GMA_RETURN_IF_ERROR(
        Launched(cuda::RunRound(mixed_.data(), tokens_, static_cast<int32_t>(layer.o_proj.inputs),
                                rounded_.data(), stream_)));
    mixed = rounded_.data();
  }
  GMA_RETURN_IF_ERROR(Product(layer.o_proj, mixed, tokens_, true, x_));
  GMA_RETURN_IF_ERROR(Norm(layer.post_norm, nullptr, tokens_));
  GMA_RETURN_IF_ERROR(Product(layer.gate_up, normed_.data(), tokens_, false, gate_up_));
  GMA_RETURN_IF_ERROR(Launched(cuda::RunSwiGlu(gate_up_.data(), tokens_, config_.intermediate_size,
                                               hidden_.data(), stream_)));
  return Product(layer.down, hidden_.data(), tokens_, true, x_);
}

template <typename T>
absl::Status CudaDecoder<T>::Launch(const cuda::StepRows& rows, int64_t picked) {
  GMA_RETURN_IF_ERROR(Embed());
  GMA_RETURN_IF_ERROR(
      Launched(cuda::RunRotationAngles(rows, frequencies_.data(), config_.head_dim / 2,
                                       rope_cos_.data(), rope_sin_.data(), stream_)));
  for (const CudaLayerWeights<T>& layer : weights_.layers) {
    GMA_RETURN_IF_ERROR(RunLayer(layer, rows));
  }
  if (picked > 0) {
    GMA_RETURN_IF_ERROR(Norm(weights_.final_norm, indices_.picked(), picked));
    GMA_RETURN_IF_ERROR(Product(weights_.head, normed_.data(), picked, false, logits_));
  }
  return Launched(cuda::RunAdvance(rows, stream_));
}

template <typename T>
int32_t CudaDecoder<T>::GraphRows(const StepBatch& batch) const {
  const size_t rows = batch.rows.size();
  if (!graphs_on_ || flat_.tokens().size() != rows || flat_.logit_tokens().size() != rows) return 0;
  int32_t padded = 1;
  while (padded < static_cast<int32_t>(rows)) padded *= 2;
  padded = std::min(padded, max_rows_);
  const bool may_capture = product_->MayCapture(padded, weights_.head.inputs) &&
                           product_->MayCapture(padded, weights_.layers.front().o_proj.inputs) &&
                           product_->MayCapture(padded, weights_.layers.front().down.inputs);
  return may_capture ? padded : 0;
}

template <typename T>
absl::Status CudaDecoder<T>::LaunchGraph(const cuda::StepRows& rows) {
  // The first step of its kind is run as it is: a library may have to make room for it.
  const auto [graph, is_new] = graphs_.try_emplace(rows.rows);
  if (is_new) return Launch(rows, rows.rows);
  if (!graph->second.captured()) {
    const absl::Status captured =
        graph->second.Capture(stream_, [&] { return Launch(rows, rows.rows); });
    if (!captured.ok()) {
      GMA_LOG(kWarning, "graphs_off", {{"error", std::string(captured.message())}});
      graphs_on_ = false;
      return Launch(rows, rows.rows);
    }
  }
  ran_graph_ = true;
  return Launched(graph->second.Launch(stream_));
}

template <typename T>
absl::Status CudaDecoder<T>::ReadLogits(absl::Span<float> logits) {
  const size_t numbers = flat_.logit_tokens().size() * static_cast<size_t>(config_.vocab_size);
  if (numbers == 0) return absl::OkStatus();
  GMA_RETURN_IF_ERROR(
      Launched(cudaMemcpyAsync(host_logits_.data(), logits_.data(), numbers * sizeof(float),
                               cudaMemcpyDeviceToHost, stream_)));
  GMA_RETURN_IF_ERROR(Launched(cudaStreamSynchronize(stream_)));
  std::copy_n(host_logits_.data(), numbers, logits.begin());
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaDecoder<T>::Run(const StepBatch& batch, StatePool& pool,
                                 absl::Span<float> logits) {
  flat_.Assign(batch, pool, layout_, logits.size());
  ran_graph_ = false;
  if (batch.rows.empty()) return absl::OkStatus();
  // A step without logits was not waited for, and the indices are still its own.
  GMA_RETURN_IF_ERROR(Launched(cudaStreamSynchronize(stream_)));
  if (graphs_pool_ != pool.data()) graphs_.clear();
  graphs_pool_ = pool.data();
  const int32_t graph_rows = GraphRows(batch);
  GMA_RETURN_IF_ERROR(Launched(indices_.Set(flat_, static_cast<size_t>(graph_rows), stream_)));
  const int32_t rows = static_cast<int32_t>(batch.rows.size());
  tokens_ = std::max(static_cast<int64_t>(flat_.tokens().size()), int64_t{graph_rows});
  const cuda::StepRows step_rows = {.pool = pool.data(),
                                    .row_bytes = pool.row_bytes(),
                                    .rows = std::max(rows, graph_rows),
                                    .state_row = indices_.state_row(),
                                    .first = indices_.first(),
                                    .count = indices_.count()};
  GMA_RETURN_IF_ERROR(graph_rows > 0
                          ? LaunchGraph(step_rows)
                          : Launch(step_rows, static_cast<int64_t>(flat_.logit_tokens().size())));
  return ReadLogits(logits);
}

// ERRORS: kInvalidArgument naming what the kernels cannot do.
absl::Status Check(const ModelConfig& config, bool deterministic) {
  if (config.head_dim > cuda::kMaxHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "head_dim is ", config.head_dim, "; device \"cuda\" takes at most ", cuda::kMaxHeadDim));
  }
  const std::pair<const char*, int64_t> widths[] = {
      {"hidden_size", config.hidden_size},
      {"num_attention_heads * head_dim", int64_t{config.num_attention_heads} * config.head_dim},
      {"intermediate_size", config.intermediate_size}};
  for (const auto& [name, width] : widths) {
    if (!deterministic || width % DeviceProduct::kAlignment == 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("deterministic is on and ", name, " is ", width,
                                                   "; it takes multiples of ",
                                                   DeviceProduct::kAlignment));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CompiledDecoder>> LoadCudaDecoder(const ModelDir& model,
                                                                 const DecoderOptions& options) {
  GMA_RETURN_IF_ERROR(Check(model.config(), options.deterministic));
  GMA_ASSIGN_OR_RETURN(StateLayout layout,
                       StateLayout::Create(model.config(), options.compensated_state));
  GMA_ASSIGN_OR_RETURN(std::unique_ptr<DeviceProduct> product,
                       DeviceProduct::Create(options.deterministic));
  if (options.weights == "f32") {
    return CudaDecoder<float>::Create(model, options, std::move(layout), std::move(product));
  }
  return CudaDecoder<__nv_bfloat16>::Create(model, options, std::move(layout), std::move(product));
}

}  // namespace gma
