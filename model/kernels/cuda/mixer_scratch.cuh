// What a block of the mixer keeps in shared memory.
#ifndef GMA_MODEL_KERNELS_CUDA_MIXER_SCRATCH_CUH_
#define GMA_MODEL_KERNELS_CUDA_MIXER_SCRATCH_CUH_

#include <cuda_runtime.h>

#include "model/kernels/cuda/mixer.h"

namespace gma::cuda {

// All in floats. `heads` is how many query heads are read at once.
struct MixerScratch {
  float *route_q, *route_k;         // [J, r], [r] of the token
  float *query, *key, *value;       // [J, v], [v], [v]; query and key rotated
  float *content, *content_route;   // [M], [r] of the token that is written
  float* plain_key;                 // [v]: its key as FoldedKeyRoute wants it; route "key"
  float *scores, *step, *log_mass;  // [K]
  float* logits;                    // [J, K]; read "static"
  float* parts;                     // [warps, heads, v + 2]: sums, then top, then weight
  float* out;                       // [heads, v]

  // Lays the parts out from `base` on; returns how many floats they take. `base` may be null.
  __host__ __device__ size_t Place(const MixerLayer& layer, int heads, int warps, float* base) {
    const size_t share = layer.heads / layer.memory_heads;
    const size_t r = layer.routing_dim, v = layer.head_dim, slots = layer.components;
    size_t used = 0;
    const auto take = [&](float*& part, size_t count) {
      part = base + used;
      used += count;
    };
    take(route_q, share * r);
    take(route_k, r);
    take(query, share * v);
    take(key, v);
    take(value, v);
    take(content, 2 * v);
    take(content_route, r);
    take(plain_key, layer.key_route == nullptr ? 0 : v);
    take(scores, slots);
    take(step, slots);
    take(log_mass, slots);
    take(logits, layer.adapted ? 0 : share * slots);
    take(parts, static_cast<size_t>(warps) * heads * (v + 2));
    take(out, heads * v);
    return used;
  }
};

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_MIXER_SCRATCH_CUH_
