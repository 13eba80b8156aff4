// The projections of a layer's normed input, below each other in one matrix, so that a step has one
// product for them.
#ifndef GMA_MODEL_DECODER_INPUT_COLUMNS_H_
#define GMA_MODEL_DECODER_INPUT_COLUMNS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "model/config/model_config.h"

namespace gma {

// Where each projection starts among the columns of the product; kAbsent for one that the layer
// does not have.
struct InputColumns {
  static constexpr int64_t kAbsent = -1;
  int64_t route_q = kAbsent, route_k = kAbsent, value = kAbsent, q = kAbsent, k = kAbsent,
          gate = kAbsent, forget = kAbsent;
  int64_t total = 0;
  // Names of the tensors in this order, without "model.layers.N.mixer.".
  std::vector<std::string> tensors;
};

InputColumns InputColumnsOf(const ModelConfig& config, const MixerOptions& options);

}  // namespace gma

#endif  // GMA_MODEL_DECODER_INPUT_COLUMNS_H_
