#include "model/decoder/layer_weights_torch.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace gma {
namespace {

at::Tensor AsTensor(const TensorView& view, at::ScalarType type) {
  GMA_CHECK(view.type == TensorType::kFloat32 || view.type == TensorType::kBFloat16);
  const at::ScalarType stored = view.type == TensorType::kFloat32 ? at::kFloat : at::kBFloat16;
  // from_blob wants a mutable pointer; nothing writes to a weight (the mapping is read-only).
  void* data = const_cast<uint8_t*>(view.data.data());
  return at::from_blob(data, view.shape, at::TensorOptions().dtype(stored)).to(type);
}

// One layer's input projections below each other.
at::Tensor StackInputProjections(const ModelDir& model, const std::string& prefix,
                                 const InputColumns& columns, at::ScalarType type) {
  std::vector<at::Tensor> parts;
  for (const auto* names : {&columns.routing_tensors, &columns.content_tensors}) {
    for (const std::string& name : *names) {
      parts.push_back(AsTensor(model.tensor(absl::StrCat(prefix, "mixer.", name)), type));
    }
  }
  return at::cat(parts);
}

}  // namespace

ModelWeights LoadWeights(const ModelDir& model, at::ScalarType projection_type) {
  const ModelConfig& config = model.config();
  ModelWeights weights;
  weights.embedding = AsTensor(model.tensor("model.embed_tokens.weight"), at::kFloat);
  weights.head = config.tie_word_embeddings ? weights.embedding
                                            : AsTensor(model.tensor("lm_head.weight"), at::kFloat);
  weights.matrix_bytes = weights.head.nbytes();
  weights.final_norm = AsTensor(model.tensor("model.norm.weight"), at::kFloat);
  for (int32_t n = 0; n < config.num_layers; ++n) {
    const std::string prefix = absl::StrCat("model.layers.", n, ".");
    const auto tensor = [&](std::string_view name, at::ScalarType type) {
      return AsTensor(model.tensor(prefix + std::string(name)), type);
    };
    LayerWeights layer;
    layer.input_norm = tensor("input_layernorm.weight", at::kFloat);
    layer.post_norm = tensor("post_attention_layernorm.weight", at::kFloat);
    layer.columns = InputColumnsOf(config, config.layers[n]);
    layer.input_proj = StackInputProjections(model, prefix, layer.columns, projection_type);
    layer.o_proj = tensor("mixer.o_proj.weight", projection_type);
    layer.mlp_gate = tensor("mlp.gate_proj.weight", projection_type);
    layer.mlp_up = tensor("mlp.up_proj.weight", projection_type);
    layer.mlp_down = tensor("mlp.down_proj.weight", projection_type);
    for (const at::Tensor* matrix :
         {&layer.input_proj, &layer.o_proj, &layer.mlp_gate, &layer.mlp_up, &layer.mlp_down}) {
      weights.matrix_bytes += matrix->nbytes();
    }
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

}  // namespace gma
