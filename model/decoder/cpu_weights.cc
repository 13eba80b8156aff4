#include "model/decoder/cpu_weights.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gma {
namespace {

// Panels that one thread packs at a time.
constexpr int64_t kPanelsAtOnce = 8;

void ReadRow(const TensorView& tensor, int64_t row, int64_t cols, float* out) {
  CopyFloats(tensor, static_cast<size_t>(row * cols), static_cast<size_t>(cols), out);
}

class Packer {
 public:
  Packer(const ModelDir& model, cpu::WeightFormat format, ThreadPool& pool, HugeArena& arena)
      : model_(model), format_(format), pool_(pool), arena_(arena) {}

  // Tensors of `cols` columns, below each other.
  cpu::PackedMatrix Stack(const std::vector<std::string>& names, int64_t cols) const {
    std::vector<const TensorView*> tensors;
    int64_t rows = 0;
    for (const std::string& name : names) {
      tensors.push_back(&model_.tensor(name));
      rows += tensors.back()->shape[0];
    }
    return Pack(rows, cols, [&](int64_t row, float* out) {
      size_t part = 0;
      for (; row >= tensors[part]->shape[0]; ++part) row -= tensors[part]->shape[0];
      ReadRow(*tensors[part], row, cols, out);
    });
  }

  // Panels of two tensors in turn, the rows that fill the last ones zero.
  cpu::PackedMatrix Alternate(const std::string& first, const std::string& second,
                              int64_t cols) const {
    const TensorView* tensors[] = {&model_.tensor(first), &model_.tensor(second)};
    const int64_t rows = tensors[0]->shape[0];
    const int64_t panels = (rows + cpu::kPanelRows - 1) / cpu::kPanelRows;
    return Pack(2 * panels * cpu::kPanelRows, cols, [&](int64_t row, float* out) {
      const int64_t panel = row / cpu::kPanelRows;
      const int64_t source = panel / 2 * cpu::kPanelRows + row % cpu::kPanelRows;
      if (source < rows) return ReadRow(*tensors[panel % 2], source, cols, out);
      std::fill(out, out + cols, 0.0f);
    });
  }

  std::vector<float> Vector(const std::string& name) const {
    const TensorView& tensor = model_.tensor(name);
    std::vector<float> numbers(static_cast<size_t>(tensor.shape[0]));
    ReadRow(tensor, 0, tensor.shape[0], numbers.data());
    return numbers;
  }

 private:
  cpu::PackedMatrix Pack(int64_t rows, int64_t cols,
                         const cpu::PackedMatrix::RowReader& reader) const {
    cpu::PackedMatrix matrix(format_, rows, cols, arena_);
    const int64_t parts = (matrix.panels() + kPanelsAtOnce - 1) / kPanelsAtOnce;
    pool_.Run(parts, [&](int64_t part, int32_t) {
      matrix.PackPanels(reader, part * kPanelsAtOnce,
                        std::min((part + 1) * kPanelsAtOnce, matrix.panels()));
    });
    return matrix;
  }

  const ModelDir& model_;
  const cpu::WeightFormat format_;
  ThreadPool& pool_;
  HugeArena& arena_;
};

}  // namespace

size_t CpuWeights::bytes() const {
  size_t sum = embedding.bytes() + head.bytes();
  for (const CpuLayerWeights& layer : layers) {
    for (const cpu::PackedMatrix* matrix :
         {&layer.routing_proj, &layer.content_proj, &layer.o_proj, &layer.gate_up, &layer.down}) {
      sum += matrix->bytes();
    }
  }
  return sum;
}

CpuWeights LoadCpuWeights(const ModelDir& model, cpu::WeightFormat format, ThreadPool& pool) {
  const ModelConfig& config = model.config();
  const int64_t d = config.hidden_size, f = config.intermediate_size;
  CpuWeights weights;
  const Packer packer(model, format, pool, weights.arena);
  const Packer finer(model, format == cpu::WeightFormat::kInt4 ? cpu::WeightFormat::kInt8 : format,
                     pool, weights.arena);
  const std::string embedding = "model.embed_tokens.weight";
  if (!config.tie_word_embeddings) weights.embedding = finer.Stack({embedding}, d);
  weights.head = finer.Stack({config.tie_word_embeddings ? embedding : "lm_head.weight"}, d);
  weights.final_norm = packer.Vector("model.norm.weight");
  for (int32_t n = 0; n < config.num_layers; ++n) {
    const std::string prefix = absl::StrCat("model.layers.", n, ".");
    CpuLayerWeights layer;
    layer.input_norm = packer.Vector(prefix + "input_layernorm.weight");
    layer.post_norm = packer.Vector(prefix + "post_attention_layernorm.weight");
    layer.columns = InputColumnsOf(config, config.layers[n]);
    const auto projections = [&prefix](std::vector<std::string> names) {
      for (std::string& name : names) name = absl::StrCat(prefix, "mixer.", name);
      return names;
    };
    layer.routing_proj = finer.Stack(projections(layer.columns.routing_tensors), d);
    layer.content_proj = packer.Stack(projections(layer.columns.content_tensors), d);
    layer.o_proj = packer.Stack({prefix + "mixer.o_proj.weight"},
                                int64_t{config.num_attention_heads} * config.head_dim);
    layer.gate_up =
        packer.Alternate(prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight", d);
    layer.down = packer.Stack({prefix + "mlp.down_proj.weight"}, f);
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

}  // namespace gma
