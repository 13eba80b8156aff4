// The cpu decoder: packed weights and SIMD kernels on a fixed pool of threads. A step is a row of
// short jobs, each split into items that any thread may take: which thread does an item, and with
// which others, changes no bit (model/kernels/cpu/panel_product.h, mixer.h).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "base/huge_arena.h"
#include "base/status_macros.h"
#include "model/decoder/cpu_weights.h"
#include "model/decoder/decoders.h"
#include "model/decoder/flat_batch.h"
#include "model/decoder/mix_schedule.h"
#include "model/decoder/mixer_constants.h"
#include "model/decoder/thread_pool.h"
#include "model/kernels/cpu/elementwise.h"
#include "model/kernels/cpu/fetch_queue.h"
#include "model/kernels/cpu/mixer.h"
#include "model/kernels/cpu/panel_product.h"

namespace gma {
namespace {

// Up to so many tokens the caller's thread does alone what is done token by token.
constexpr int64_t kTokensAlone = 4;
constexpr int64_t kTokensAtOnce = 8;    // of an item beyond that
constexpr int64_t kItemsPerThread = 4;  // of a product, at least: the last ones even out the end

// Pieces of a row's state in one layer that the products before it fetch: 2 MiB.
constexpr size_t kFetchesPerRow = 256;

cpu::WeightFormat FormatOf(const std::string& weights) {
  if (weights == "f32") return cpu::WeightFormat::kFloat32;
  if (weights == "bf16") return cpu::WeightFormat::kBFloat16;
  return weights == "int8" ? cpu::WeightFormat::kInt8 : cpu::WeightFormat::kInt4;
}

// Activations [tokens, width], the tail of each row zero up to `stride`, and the same in 16 bits
// (cpu::RoundedInput).
struct Activations {
  int64_t stride;
  float* data;  // of the arena, zero at first, as all of these
  int16_t* q;
  float *scales, *sums;

  Activations(int64_t tokens, int64_t columns, HugeArena& arena)
      : stride(cpu::PaddedColumns(columns)),
        data(Numbers<float>(tokens * stride, arena)),
        q(Numbers<int16_t>(tokens * stride, arena)),
        scales(Numbers<float>(tokens, arena)),
        sums(Numbers<float>(tokens * groups(), arena)) {}
  template <typename T>
  static T* Numbers(int64_t count, HugeArena& arena) {
    return reinterpret_cast<T*>(arena.Allocate(static_cast<size_t>(count) * sizeof(T)));
  }
  int64_t groups() const { return stride / cpu::kGroupColumns; }
  float* row(int64_t token) const { return data + token * stride; }
  void Round(int64_t token) const {
    scales[token] =
        cpu::RoundInput(row(token), groups(), q + token * stride, sums + token * groups());
  }
};

int64_t WidestInput(const CpuWeights& weights) {
  int64_t widest = 0;
  for (const CpuLayerWeights& layer : weights.layers) {
    widest = std::max(widest, layer.columns.total);
  }
  return widest;
}

class CpuDecoder final : public CompiledDecoder {
 public:
  CpuDecoder(const ModelDir& model, const DecoderOptions& options, StateLayout layout);

  absl::Status Step(const StepBatch& batch, StatePool& pool, absl::Span<float> logits) override;
  const StateLayout& state_layout() const override { return layout_; }
  int32_t vocab_size() const override { return config_.vocab_size; }
  size_t weight_bytes() const override { return weights_.bytes(); }

 private:
  void RunLayer(int32_t n);
  // body(token) for each token of the step.
  void ForEachToken(int64_t tokens, absl::FunctionRef<void(int64_t token)> body);
  void Embed();
  void RotationAngles();
  // normed_[i] = norm of x_[token_of(i)], with what a product needs beside it.
  void Norm(const std::vector<float>& gain, int64_t tokens,
            absl::FunctionRef<int64_t(int64_t)> token_of);
  // What layer n's mixer will read is to be fetched during the products until then.
  void FetchState(int32_t n);
  void Mix(int32_t n);
  void MixPiece(int32_t n, const MixSchedule::Piece& piece, uint8_t* scratch);
  void Round(const Activations& activations);  // for the next product, if it wants that
  // Products of one input with one matrix or several.
  struct Linear {
    const cpu::PackedMatrix* weights;
    float* out;
  };
  void Product(std::initializer_list<Linear> linears, cpu::ProductUse use, const Activations& input,
               int64_t tokens, int64_t out_stride);
  uint8_t* scratch(int32_t thread) const { return scratch_ + thread * scratch_bytes_; }

  const ModelConfig config_;
  const StateLayout layout_;
  const cpu::WeightFormat format_;
  const bool rounds_input_;  // products with int8 and int4 weights take 16 bits
  ThreadPool pool_;
  const CpuWeights weights_;
  std::vector<LayerMixer> constants_;
  std::vector<cpu::Mixer> mixers_;
  FlatBatch flat_;
  MixSchedule schedule_;
  cpu::FetchQueue fetch_;
  HugeArena arena_;                  // of activations and scratch
  std::vector<double> frequencies_;  // [v / 2] of RoPE
  Activations x_, normed_, projected_, mixed_, hidden_;
  std::vector<float> rope_cos_, rope_sin_;  // [T, v / 2]
  std::vector<float> log_decay_;            // [T, G]
  size_t scratch_bytes_;                    // of each thread
  uint8_t* scratch_;
};

CpuDecoder::CpuDecoder(const ModelDir& model, const DecoderOptions& options, StateLayout layout)
    : config_(model.config()),
      layout_(std::move(layout)),
      format_(FormatOf(options.weights)),
      rounds_input_(format_ == cpu::WeightFormat::kInt8 || format_ == cpu::WeightFormat::kInt4),
      pool_(options.threads),
      weights_(LoadCpuWeights(model, format_, pool_)),
      flat_(options, config_.vocab_size),
      schedule_(options.max_batch_rows, options.max_step_tokens, config_.num_memory_heads),
      fetch_(static_cast<size_t>(options.max_batch_rows) * kFetchesPerRow),
      x_(options.max_step_tokens, config_.hidden_size, arena_),
      normed_(options.max_step_tokens, config_.hidden_size, arena_),
      projected_(options.max_step_tokens, WidestInput(weights_), arena_),
      mixed_(options.max_step_tokens, int64_t{config_.num_attention_heads} * config_.head_dim,
             arena_),
      hidden_(options.max_step_tokens, config_.intermediate_size, arena_) {
  scratch_bytes_ = cpu::ProductScratchBytes();
  for (int32_t n = 0; n < config_.num_layers; ++n) {
    constants_.emplace_back(model, n);
    mixers_.emplace_back(constants_.back().constants());
    scratch_bytes_ = std::max(scratch_bytes_, mixers_.back().scratch_bytes());
  }
  scratch_bytes_ = (scratch_bytes_ + 127) / 128 * 128;  // no line of it is two threads'
  scratch_ = arena_.Allocate(scratch_bytes_ * static_cast<size_t>(pool_.threads()));
  for (int32_t i = 0; i < config_.head_dim / 2; ++i) {
    frequencies_.push_back(std::pow(config_.rope_theta, -2.0 * i / config_.head_dim));
  }
  const size_t tokens = static_cast<size_t>(options.max_step_tokens);
  rope_cos_.resize(tokens * frequencies_.size());
  rope_sin_.resize(tokens * frequencies_.size());
  log_decay_.resize(tokens * static_cast<size_t>(config_.num_memory_heads));
}

void CpuDecoder::ForEachToken(int64_t tokens, absl::FunctionRef<void(int64_t)> body) {
  if (tokens <= kTokensAlone) {
    for (int64_t token = 0; token < tokens; ++token) body(token);
    return;
  }
  pool_.Run((tokens + kTokensAtOnce - 1) / kTokensAtOnce, [&](int64_t item, int32_t) {
    const int64_t end = std::min((item + 1) * kTokensAtOnce, tokens);
    for (int64_t token = item * kTokensAtOnce; token < end; ++token) body(token);
  });
}

void CpuDecoder::Embed() {
  const cpu::PackedMatrix& table = weights_.embedding.empty() ? weights_.head : weights_.embedding;
  const std::vector<int32_t>& tokens = flat_.tokens();
  ForEachToken(static_cast<int64_t>(tokens.size()),
               [&](int64_t i) { table.UnpackRow(tokens[static_cast<size_t>(i)], x_.row(i)); });
}

void CpuDecoder::RotationAngles() {
  const size_t half = frequencies_.size();
  for (const FlatBatch::Row& row : flat_.rows()) {
    for (int64_t i = 0; i < row.count; ++i) {
      const size_t first = static_cast<size_t>(row.first + i) * half;
      for (size_t j = 0; j < half; ++j) {
        // In double: a position has no bound.
        const double angle = static_cast<double>(row.position + i) * frequencies_[j];
        rope_cos_[first + j] = static_cast<float>(std::cos(angle));
        rope_sin_[first + j] = static_cast<float>(std::sin(angle));
      }
    }
  }
}

void CpuDecoder::Norm(const std::vector<float>& gain, int64_t tokens,
                      absl::FunctionRef<int64_t(int64_t)> token_of) {
  ForEachToken(tokens, [&](int64_t i) {
    cpu::RmsNorm(x_.row(token_of(i)), gain.data(), static_cast<float>(config_.rms_norm_eps),
                 config_.hidden_size, normed_.row(i));
    if (rounds_input_) normed_.Round(i);
  });
}

void CpuDecoder::Round(const Activations& activations) {
  if (!rounds_input_) return;
  ForEachToken(static_cast<int64_t>(flat_.tokens().size()),
               [&](int64_t i) { activations.Round(i); });
}

void CpuDecoder::Product(std::initializer_list<Linear> linears, cpu::ProductUse use,
                         const Activations& input, int64_t tokens, int64_t out_stride) {
  const int64_t unit = use == cpu::ProductUse::kSwiGlu ? 2 : 1;  // panels that go together
  int64_t units = 0;
  for (const Linear& linear : linears) units += linear.weights->panels() / unit;
  const int64_t each = std::max<int64_t>(1, units / (kItemsPerThread * pool_.threads()));
  pool_.Run((units + each - 1) / each, [&](int64_t item, int32_t thread) {
    int64_t begin = item * each, end = std::min((item + 1) * each, units);
    for (const Linear& linear : linears) {
      const int64_t count = linear.weights->panels() / unit;
      if (begin < std::min(end, count)) {
        cpu::PanelProduct({.weights = linear.weights,
                           .use = use,
                           .tokens = tokens,
                           .x = input.data,
                           .rounded = {input.q, input.scales, input.sums},
                           .x_stride = input.stride,
                           .fetch = &fetch_,
                           .y = linear.out,
                           .y_stride = out_stride},
                          begin * unit, std::min(end, count) * unit, scratch(thread));
      }
      begin = std::max<int64_t>(begin - count, 0);
      end -= count;
    }
  });
}

void CpuDecoder::FetchState(int32_t n) {
  fetch_.Clear();
  if (n == config_.num_layers) return;
  const LayerLayout& layout = layout_.layers()[n];
  const int64_t heads = config_.num_memory_heads;
  const size_t means = static_cast<size_t>(heads) * static_cast<size_t>(config_.num_components) *
                       static_cast<size_t>(layout.memory_dim) * sizeof(float);
  for (const FlatBatch::Row& row : flat_.rows()) {
    if (row.state == nullptr) continue;
    const MixerState state = StateOfLayer(row.state, layout);
    fetch_.Add(state.memory, means);
    const int64_t near = std::min<int64_t>(row.position, config_.layers[n].window);
    const size_t bytes = static_cast<size_t>(near * heads * config_.head_dim) * sizeof(float);
    fetch_.Add(state.window_key, bytes);
    fetch_.Add(state.window_value, bytes);
  }
}

void CpuDecoder::Mix(int32_t n) {
  schedule_.Restart();
  pool_.Run(static_cast<int64_t>(schedule_.pieces().size()), [&](int64_t item, int32_t thread) {
    const MixSchedule::Piece& piece = schedule_.pieces()[static_cast<size_t>(item)];
    const FlatBatch::Row& row = flat_.rows()[static_cast<size_t>(piece.row)];
    const int64_t first = row.first + piece.begin;
    if (row.state == nullptr) {
      if (piece.head == 0) std::fill_n(mixed_.row(first), piece.count * mixed_.stride, 0.0f);
      return;
    }
    schedule_.Await(piece);
    MixPiece(n, piece, scratch(thread));
    schedule_.Done(piece);
  });
}

void CpuDecoder::MixPiece(int32_t n, const MixSchedule::Piece& piece, uint8_t* scratch) {
  const InputColumns& columns = weights_.layers[n].columns;
  const int64_t heads = config_.num_memory_heads;
  const FlatBatch::Row& row = flat_.rows()[static_cast<size_t>(piece.row)];
  const int64_t first = row.first + piece.begin;
  float* log_decay = nullptr;
  if (columns.forget != InputColumns::kAbsent) {
    log_decay = log_decay_.data() + first * heads;
    for (int64_t i = 0; i < piece.count; ++i) {
      const float forget = projected_.row(first + i)[columns.forget + piece.head];
      log_decay[i * heads + piece.head] = constants_[n].LogDecay(piece.head, forget);
    }
  }
  const int64_t angles = first * static_cast<int64_t>(frequencies_.size());
  mixers_[n].Run({.position = row.position + piece.begin,
                  .count = piece.count,
                  .projected = projected_.row(first),
                  .stride = projected_.stride,
                  .route_q = columns.route_q,
                  .route_k = columns.route_k,
                  .value = columns.value,
                  .q = columns.q,
                  .k = columns.k,
                  .gate = columns.gate,
                  .log_decay = log_decay,
                  .rope_cos = rope_cos_.data() + angles,
                  .rope_sin = rope_sin_.data() + angles,
                  .out = mixed_.row(first),
                  .out_stride = mixed_.stride},
                 StateOfLayer(row.state, layout_.layers()[n]), piece.head, scratch);
}

void CpuDecoder::RunLayer(int32_t n) {
  const CpuLayerWeights& layer = weights_.layers[n];
  const int64_t tokens = static_cast<int64_t>(flat_.tokens().size());
  const auto same = [](int64_t token) { return token; };
  Norm(layer.input_norm, tokens, same);
  float* projected = projected_.data;
  Product(
      {{&layer.routing_proj, projected}, {&layer.content_proj, projected + layer.columns.routing}},
      cpu::ProductUse::kStore, normed_, tokens, projected_.stride);
  Mix(n);
  FetchState(n + 1);
  Round(mixed_);
  Product({{&layer.o_proj, x_.data}}, cpu::ProductUse::kAdd, mixed_, tokens, x_.stride);
  Norm(layer.post_norm, tokens, same);
  Product({{&layer.gate_up, hidden_.data}}, cpu::ProductUse::kSwiGlu, normed_, tokens,
          hidden_.stride);
  Round(hidden_);
  Product({{&layer.down, x_.data}}, cpu::ProductUse::kAdd, hidden_, tokens, x_.stride);
}

absl::Status CpuDecoder::Step(const StepBatch& batch, StatePool& pool, absl::Span<float> logits) {
  flat_.Assign(batch, pool, layout_, logits.size());
  if (batch.rows.empty()) return absl::OkStatus();
  schedule_.Assign(flat_.rows());
  FetchState(0);
  Embed();
  RotationAngles();
  for (int32_t n = 0; n < config_.num_layers; ++n) RunLayer(n);
  const std::vector<int32_t>& wanted = flat_.logit_tokens();
  if (!wanted.empty()) {
    const int64_t count = static_cast<int64_t>(wanted.size());
    Norm(weights_.final_norm, count,
         [&wanted](int64_t i) { return wanted[static_cast<size_t>(i)]; });
    Product({{&weights_.head, logits.data()}}, cpu::ProductUse::kStore, normed_, count,
            config_.vocab_size);
  }
  flat_.AdvancePositions();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CompiledDecoder>> LoadCpuDecoder(const ModelDir& model,
                                                                const DecoderOptions& options) {
  GMA_ASSIGN_OR_RETURN(StateLayout layout,
                       StateLayout::Create(model.config(), options.compensated_state));
  try {
    auto decoder = std::make_unique<CpuDecoder>(model, options, std::move(layout));
    model.LetGoOfPages();  // everything is packed
    return decoder;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", model.parameter_count(), " weights as ", options.weights));
  }
}

}  // namespace gma
