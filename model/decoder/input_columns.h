// The projections of a layer's normed input, side by side in one output: first those that decide
// where a token goes (routing and forgetting), which want more bits than the others, then the rest.
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
  int64_t routing = 0, total = 0;  // columns of the first part, and of all
  // Names of the tensors in their order, without "model.layers.N.mixer.".
  std::vector<std::string> routing_tensors, content_tensors;
};

InputColumns InputColumnsOf(const ModelConfig& config, const MixerOptions& options);

}  // namespace gma

#endif  // GMA_MODEL_DECODER_INPUT_COLUMNS_H_
