#include "model/decoder/cuda_weights.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/decoder/mixer_constants.h"

namespace gma {
namespace {

template <typename T>
std::vector<T> ToNumbers(std::vector<float> numbers) {
  if constexpr (std::is_same_v<T, float>) {
    return numbers;
  } else {
    std::vector<T> rounded(numbers.size());
    std::transform(numbers.begin(), numbers.end(), rounded.begin(),
                   [](float x) { return __float2bfloat16_rn(x); });
    return rounded;
  }
}

// Copies tensors of `model` to the device.
template <typename T>
class Loader {
 public:
  Loader(const ModelDir& model, size_t& matrix_bytes)
      : model_(model), matrix_bytes_(matrix_bytes) {}

  // Tensors of equal width, below each other.
  absl::Status Stack(const std::vector<std::string>& names, DeviceMatrix<T>& matrix) {
    std::vector<T> all;
    for (const std::string& name : names) {
      const TensorView& tensor = model_.tensor(name);
      matrix.outputs += tensor.shape[0];
      matrix.inputs = tensor.shape[1];
      const std::vector<T> numbers = ToNumbers<T>(ToFloats(tensor));
      all.insert(all.end(), numbers.begin(), numbers.end());
    }
    GMA_ASSIGN_OR_RETURN(matrix.numbers, cuda::DeviceArray<T>::Copy(all));
    matrix_bytes_ += all.size() * sizeof(T);
    return absl::OkStatus();
  }

  absl::StatusOr<cuda::DeviceArray<float>> Vector(const std::string& name) const {
    return cuda::DeviceArray<float>::Copy(ToFloats(model_.tensor(name)));
  }

 private:
  const ModelDir& model_;
  size_t& matrix_bytes_;
};

// exp(A) and the bias of forget "head" (docs/MATH.md 5.2).
template <typename T>
absl::Status LoadForgetting(const ModelDir& model, const std::string& mixer,
                            CudaLayerWeights<T>& layer) {
  const std::vector<float> a_log = ToFloats(model.tensor(mixer + "forget_a_log"));
  const std::vector<float> bias = ToFloats(model.tensor(mixer + "forget_bias"));
  std::vector<double> rate(a_log.size());
  std::transform(a_log.begin(), a_log.end(), rate.begin(), [](double a) { return std::exp(a); });
  GMA_ASSIGN_OR_RETURN(layer.forget_rate, cuda::DeviceArray<double>::Copy(rate));
  GMA_ASSIGN_OR_RETURN(layer.forget_bias, cuda::DeviceArray<double>::Copy(
                                              std::vector<double>(bias.begin(), bias.end())));
  return absl::OkStatus();
}

cuda::MixerLayer PlaceOf(const LayerLayout& layout) {
  static_assert(LayerLayout::kAbsent == cuda::MixerLayer::kAbsent);
  cuda::MixerLayer place = {};
  place.mass = layout.mass;
  place.memory = layout.memory;
  place.compensation = layout.compensation;
  place.conv = layout.conv;
  place.window_key = layout.window_key;
  place.window_value = layout.window_value;
  place.window_route = layout.window_route;
  place.slot_position = layout.slot_position;
  place.window_log_decay = layout.window_log_decay;
  return place;
}

}  // namespace

template <typename T>
absl::StatusOr<CudaWeights<T>> LoadCudaWeights(const ModelDir& model, const StateLayout& layout) {
  const ModelConfig& config = model.config();
  CudaWeights<T> weights;
  Loader<T> loader(model, weights.matrix_bytes);
  const std::string embedding = "model.embed_tokens.weight";
  if (!config.tie_word_embeddings) {
    GMA_RETURN_IF_ERROR(loader.Stack({embedding}, weights.embedding));
  }
  GMA_RETURN_IF_ERROR(
      loader.Stack({config.tie_word_embeddings ? embedding : "lm_head.weight"}, weights.head));
  GMA_ASSIGN_OR_RETURN(weights.final_norm, loader.Vector("model.norm.weight"));
  for (int32_t n = 0; n < config.num_layers; ++n) {
    const std::string prefix = absl::StrCat("model.layers.", n, ".");
    const std::string mixer = prefix + "mixer.", mlp = prefix + "mlp.";
    CudaLayerWeights<T> layer;
    GMA_ASSIGN_OR_RETURN(layer.input_norm, loader.Vector(prefix + "input_layernorm.weight"));
    GMA_ASSIGN_OR_RETURN(layer.post_norm,
                         loader.Vector(prefix + "post_attention_layernorm.weight"));
    layer.columns = InputColumnsOf(config, config.layers[n]);
    std::vector<std::string> projections;
    for (const auto* names : {&layer.columns.routing_tensors, &layer.columns.content_tensors}) {
      for (const std::string& name : *names) projections.push_back(mixer + name);
    }
    GMA_RETURN_IF_ERROR(loader.Stack(projections, layer.input_proj));
    GMA_RETURN_IF_ERROR(loader.Stack({mixer + "o_proj.weight"}, layer.o_proj));
    GMA_RETURN_IF_ERROR(
        loader.Stack({mlp + "gate_proj.weight", mlp + "up_proj.weight"}, layer.gate_up));
    GMA_RETURN_IF_ERROR(loader.Stack({mlp + "down_proj.weight"}, layer.down));
    const LayerMixer constants(model, n);
    if (constants.constants().forget_head) {
      GMA_RETURN_IF_ERROR(LoadForgetting(model, mixer, layer));
    }
    GMA_ASSIGN_OR_RETURN(
        layer.mixer, cuda::DeviceMixer::Create(constants.constants(), PlaceOf(layout.layers()[n])));
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

template absl::StatusOr<CudaWeights<float>> LoadCudaWeights(const ModelDir&, const StateLayout&);
template absl::StatusOr<CudaWeights<__nv_bfloat16>> LoadCudaWeights(const ModelDir&,
                                                                    const StateLayout&);

}  // namespace gma
