// The write of a mixer step for one memory head: which token is written, and the slots'
// responsibilities and masses (docs/MATH.md 2, 5.2, 11.1).
#ifndef GMA_MODEL_KERNELS_CUDA_MIXER_WRITE_CUH_
#define GMA_MODEL_KERNELS_CUDA_MIXER_WRITE_CUH_

#include <cuda_runtime.h>

#include <cmath>

#include "model/kernels/cuda/mixer.h"
#include "model/kernels/cuda/mixer_prepare.cuh"
#include "model/kernels/cuda/mixer_scratch.cuh"
#include "model/kernels/cuda/warp.cuh"

namespace gma::cuda {

// s.plain_key <- one pair of the rotated key that is written now, turned back by this position.
__device__ inline void TurnBack(const MixerLayer& layer, const MixerBatch& batch,
                                const Place& place, const MixerScratch& s, int64_t c, float low,
                                float high) {
  if (layer.key_route == nullptr) return;
  const int64_t half = layer.head_dim / 2;
  const float cosine = batch.rope_cos[place.token * half + c];
  const float sine = batch.rope_sin[place.token * half + c];
  s.plain_key[c] = low * cosine + high * sine;
  s.plain_key[c + half] = high * cosine - low * sine;
}

// s.content_route <- of s.plain_key (key_route.h).
__device__ inline void KeyRoute(const MixerLayer& layer, const Place& place,
                                const MixerScratch& s) {
  const int64_t v = layer.head_dim, r = layer.routing_dim;
  const float* rows = layer.key_route + place.head * v * r;
  for (int64_t m = threadIdx.x; m < r; m += blockDim.x) {
    float sum = 0;
    for (int64_t i = 0; i < v; ++i) sum += s.plain_key[i] * rows[i * r + m];
    s.content_route[m] = sum;
  }
}

// Content, route (with route "key" only what KeyRoute needs) and log-decay of the token that is
// written now: this one, or with a window the one that leaves it, whose place this one takes.
// False: none leaves.
__device__ inline bool ChooseContent(const MixerLayer& layer, const MixerBatch& batch,
                                     const Place& place, const MixerScratch& s, float& log_decay) {
  const int64_t v = layer.head_dim, half = v / 2, r = layer.routing_dim, g = place.head;
  const bool own_route = layer.key_route == nullptr;
  const float own_decay =
      layer.forget_head ? batch.log_decay[place.token * layer.memory_heads + g] : 0.0f;
  if (layer.window == 0) {
    for (int64_t i = threadIdx.x; i < v; i += blockDim.x) s.content[i] = s.value[i];
    for (int64_t c = threadIdx.x; layer.adapted && c < half; c += blockDim.x) {
      s.content[v + c] = s.key[c];
      s.content[v + c + half] = s.key[c + half];
      TurnBack(layer, batch, place, s, c, s.key[c], s.key[c + half]);
    }
    for (int64_t i = threadIdx.x; own_route && i < r; i += blockDim.x) {
      s.content_route[i] = s.route_k[i];
    }
    log_decay = own_decay;
    return true;
  }
  const int64_t entry = place.position % layer.window * layer.memory_heads + g;
  float* key = place.Block<float>(layer.window_key) + entry * v;
  float* value = place.Block<float>(layer.window_value) + entry * v;
  float* route = own_route ? place.Block<float>(layer.window_route) + entry * r : nullptr;
  for (int64_t i = threadIdx.x; i < v; i += blockDim.x) {
    s.content[i] = value[i];
    value[i] = s.value[i];
  }
  for (int64_t c = threadIdx.x; c < half; c += blockDim.x) {
    s.content[v + c] = key[c];
    s.content[v + c + half] = key[c + half];
    TurnBack(layer, batch, place, s, c, key[c], key[c + half]);
    key[c] = s.key[c];
    key[c + half] = s.key[c + half];
  }
  for (int64_t i = threadIdx.x; own_route && i < r; i += blockDim.x) {
    s.content_route[i] = route[i];
    route[i] = s.route_k[i];
  }
  log_decay = 0.0f;
  if (layer.forget_head) {
    float* kept = place.Block<float>(layer.window_log_decay) + entry;
    log_decay = *kept;
    __syncthreads();  // all have read it
    if (threadIdx.x == 0) *kept = own_decay;
  }
  return place.position >= layer.window;
}

// score_k(x) of slot k of memory head g.
__device__ inline float Score(const MixerLayer& layer, int64_t g, int64_t k, const float* x) {
  const int64_t slots = layer.components, r = layer.routing_dim;
  const float* w2 = layer.score_w2 + g * r * slots + k;
  const float* w1 = layer.score_w1 + g * r * slots + k;
  float score = layer.score_w0[g * slots + k];
  for (int64_t m = 0; m < r; ++m) score += (w2[m * slots] * x[m] + w1[m * slots]) * x[m];
  return score;
}

// Largest of `count` numbers, and the sum of exp(x - largest), found by each warp for itself.
struct Softmax {
  float top, sum;

  __device__ Softmax(const float* x, int count) : top(-INFINITY), sum(0) {
    const int lane = threadIdx.x % kWarp;
    for (int k = lane; k < count; k += kWarp) top = fmaxf(top, x[k]);
    top = WarpMax(top);
    for (int k = lane; k < count; k += kWarp) sum += expf(x[k] - top);
    sum = WarpSum(sum);
  }
};

// mass <- decay * mass + resp; step <- resp / mass; log_mass. Masses, and their decay, are float64:
// an error of a float32 decay would add up over the stream (docs/MATH.md 7).
__device__ inline void UpdateMasses(const MixerLayer& layer, const Place& place,
                                    const MixerScratch& s, bool writes, float log_decay) {
  const int slots = layer.components;
  double* masses = place.Block<double>(layer.mass) + static_cast<int64_t>(place.head) * slots;
  double* positions = layer.slot_horizon == 0 ? nullptr
                                              : place.Block<double>(layer.slot_position) +
                                                    static_cast<int64_t>(place.head) * slots;
  const double written = static_cast<double>(place.position - layer.window);
  const Softmax softmax(s.scores, writes ? slots : 0);
  for (int k = threadIdx.x; k < slots; k += blockDim.x) {
    double mass = masses[k];
    float step = 0;
    if (writes) {
      float resp = expf(s.scores[k] - softmax.top) / softmax.sum;
      if (resp < 0x1p-100f) resp = 0;  // docs/MATH.md 2.4
      const double decay = layer.forget_write ? -layer.forget_beta[place.head] * resp : log_decay;
      mass = exp(decay) * mass + resp;
      masses[k] = mass;
      if (resp != 0) {
        step = static_cast<float>(resp / mass);
        if (positions != nullptr) positions[k] += resp / mass * (written - positions[k]);
      }
    }
    s.step[k] = step;
    s.log_mass[k] = mass == 0 ? -INFINITY : static_cast<float>(log(mass));
  }
}

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_MIXER_WRITE_CUH_
