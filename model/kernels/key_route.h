// How the optimised mixers find the routing vector of a write from the rotated key (mixer_step.h,
// key_route): what leaves the window at position p is the key of position p - w, so that turning it
// back by p, whose angles are at hand, leaves it turned by -w, which these numbers undo.
#ifndef GMA_MODEL_KERNELS_KEY_ROUTE_H_
#define GMA_MODEL_KERNELS_KEY_ROUTE_H_

#include <vector>

#include "model/kernels/mixer_step.h"

namespace gma {

// [G, v, r]: key_route R(w) of each memory head, transposed; empty without key_route. Times the key
// turned back by the position of the token that is read now, it is the routing vector.
std::vector<float> FoldedKeyRoute(const MixerConstants& constants);

}  // namespace gma

#endif  // GMA_MODEL_KERNELS_KEY_ROUTE_H_
