// Weights of the reference decoder as LibTorch tensors. Only .cc files of model/decoder include it.
#ifndef GMA_MODEL_DECODER_LAYER_WEIGHTS_TORCH_H_
#define GMA_MODEL_DECODER_LAYER_WEIGHTS_TORCH_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/checkpoint/model_dir.h"
#include "model/decoder/input_columns.h"

namespace gma {

struct LayerWeights {
  at::Tensor input_norm, post_norm;  // [d] float32
  at::Tensor input_proj;             // [columns.total, d]: every projection of the normed input
  InputColumns columns;
  at::Tensor o_proj;            // [d, H v]
  at::Tensor mlp_gate, mlp_up;  // [f, d]
  at::Tensor mlp_down;          // [d, f]
};

struct ModelWeights {
  at::Tensor embedding;   // [vocab, d] float32
  at::Tensor head;        // [vocab, d] float32; the same tensor where they are tied
  at::Tensor final_norm;  // [d] float32
  std::vector<LayerWeights> layers;
  size_t matrix_bytes = 0;  // of everything above that a step multiplies with
};

// Projections of the layers become `projection_type`, everything else float32. Tensors that have
// their type already are views of the files of `model`, which must outlive them.
ModelWeights LoadWeights(const ModelDir& model, at::ScalarType projection_type);

}  // namespace gma

#endif  // GMA_MODEL_DECODER_LAYER_WEIGHTS_TORCH_H_
