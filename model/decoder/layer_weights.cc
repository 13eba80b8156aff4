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

// One layer's input projections below each other, so that a step has one matrix product for them.
void FuseInputProjections(const ModelDir& model, const std::string& prefix,
                          const MixerOptions& options, at::ScalarType type, LayerWeights& weights) {
  std::vector<at::Tensor> parts;
  const auto add = [&](std::string_view name, int64_t& column) {
    column = weights.columns.total;
    parts.push_back(AsTensor(model.tensor(prefix + "mixer." + std::string(name)), type));
    weights.columns.total += parts.back().size(0);
  };
  if (options.has_route_q()) add("route_q_proj.weight", weights.columns.route_q);
  add("route_k_proj.weight", weights.columns.route_k);
  add("v_proj.weight", weights.columns.value);
  if (options.has_qk()) {
    add("q_proj.weight", weights.columns.q);
    add("k_proj.weight", weights.columns.k);
  }
  if (options.out_gate) add("gate_proj.weight", weights.columns.gate);
  if (options.forget == ForgetMode::kHead) add("forget_proj.weight", weights.columns.forget);
  weights.input_proj = at::cat(parts);
}

}  // namespace

ModelWeights LoadWeights(const ModelDir& model, at::ScalarType projection_type) {
  const ModelConfig& config = model.config();
  ModelWeights weights;
  weights.embedding = AsTensor(model.tensor("model.embed_tokens.weight"), at::kFloat);
  weights.head = config.tie_word_embeddings ? weights.embedding
                                            : AsTensor(model.tensor("lm_head.weight"), at::kFloat);
  weights.final_norm = AsTensor(model.tensor("model.norm.weight"), at::kFloat);
  for (int32_t n = 0; n < config.num_layers; ++n) {
    const std::string prefix = absl::StrCat("model.layers.", n, ".");
    const auto tensor = [&](std::string_view name, at::ScalarType type) {
      return AsTensor(model.tensor(prefix + std::string(name)), type);
    };
    LayerWeights layer;
    layer.input_norm = tensor("input_layernorm.weight", at::kFloat);
    layer.post_norm = tensor("post_attention_layernorm.weight", at::kFloat);
    FuseInputProjections(model, prefix, config.layers[n], projection_type, layer);
    layer.o_proj = tensor("mixer.o_proj.weight", projection_type);
    layer.mlp_gate = tensor("mlp.gate_proj.weight", projection_type);
    layer.mlp_up = tensor("mlp.up_proj.weight", projection_type);
    layer.mlp_down = tensor("mlp.down_proj.weight", projection_type);
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

}  // namespace gma
