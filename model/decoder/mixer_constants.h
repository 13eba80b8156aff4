// What the mixer kernels need of a layer's weights, prepared once at load in float64.
#ifndef GMA_MODEL_DECODER_MIXER_CONSTANTS_H_
#define GMA_MODEL_DECODER_MIXER_CONSTANTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/checkpoint/model_dir.h"
#include "model/config/model_config.h"
#include "model/kernels/mixer_step.h"
#include "model/state/state_layout.h"

namespace gma {

// A tensor's numbers as float32, whatever type the checkpoint keeps. REQUIRES: F32 or BF16.
std::vector<float> ToFloats(const TensorView& tensor);

// Owns the numbers behind `constants()`. Move-only: the pointers survive a move.
class LayerMixer {
 public:
  LayerMixer(const ModelDir& model, int32_t layer);
  LayerMixer(LayerMixer&&) = default;
  LayerMixer& operator=(LayerMixer&&) = default;

  const MixerConstants& constants() const { return constants_; }
  // The log-decay of forget "head", -exp(A) softplus(u x + b), from a head's projection
  // `forget` = u x. REQUIRES: the layer forgets by head.
  float LogDecay(int32_t memory_head, float forget) const;

 private:
  // The tensor `mixer.<name>`, kept as long as this object.
  const float* Keep(const ModelDir& model, std::string_view name);
  void BuildScores(const ModelDir& model, VarParam var_param);

  std::string prefix_;  // "model.layers.N.mixer."
  MixerConstants constants_{};
  std::map<std::string, std::vector<float>, std::less<>> floats_;
  std::vector<double> score_w2_, score_w1_, score_w0_, forget_beta_;
};

// Pointers into the row at `row` for one layer; null where the layout has no block.
MixerState StateOfLayer(uint8_t* row, const LayerLayout& layout);

}  // namespace gma

#endif  // GMA_MODEL_DECODER_MIXER_CONSTANTS_H_
