// One memory head's share of reference::MixerStep: heads of a layer touch disjoint parts of the
// state row, so a caller may run them on several threads, or all tokens of one head in a row.
#ifndef GMA_MODEL_KERNELS_REFERENCE_MIXER_HEAD_H_
#define GMA_MODEL_KERNELS_REFERENCE_MIXER_HEAD_H_

#include <cstdint>
#include <vector>

#include "model/kernels/mixer_step.h"

namespace gma::reference {

// Rotation of one position: cos and sin of position * theta^(-2i/v), i in [0, v/2), in float64
// because positions have no bound.
struct RopeAngles {
  RopeAngles(int64_t position, double theta, int32_t head_dim);

  std::vector<double> cos, sin;  // [v/2]
};

// MixerStep for memory head `memory_head` and the query heads that read it.
// `angles`: of input.position; may be null where the layer has no q and k. `out`: [H, v], of which
// the rows of those query heads are written.
// THREADS: any, for distinct pairs of row and memory head.
void MixerHeadStep(const MixerConstants& constants, const MixerInput& input,
                   const MixerState& state, const RopeAngles* angles, int32_t memory_head,
                   float* out);

}  // namespace gma::reference

#endif  // GMA_MODEL_KERNELS_REFERENCE_MIXER_HEAD_H_
