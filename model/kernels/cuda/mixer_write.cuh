// The first half of a mixer step for one memory head: what the token brings, which token is
// written, and the slots' responsibilities and masses (docs/MATH.md 2, 5.2, 11.1).
#ifndef GMA_MODEL_KERNELS_CUDA_MIXER_WRITE_CUH_
#define GMA_MODEL_KERNELS_CUDA_MIXER_WRITE_CUH_

#include <cuda_runtime.h>

#include <cmath>

#include "model/kernels/cuda/mixer.h"
#include "model/kernels/cuda/mixer_scratch.cuh"
#include "model/kernels/cuda/warp.cuh"

namespace gma::cuda {

// One memory head of one row at one token.
struct Place {
  uint8_t* row;
  int32_t head;      // g
  int64_t position;  // tokens before this one
  int64_t token;     // in the step

  template <typename T>
  __device__ T* Block(size_t offset) const {
    return reinterpret_cast<T*>(row + offset);
  }
};

__device__ inline float Silu(float x) { return x / (1.0f + expf(-x)); }

// Depthwise causal convolution of one channel; the token enters the ring.
__device__ inline float ShortConv(const MixerLayer& layer, const Place& place, int64_t channel,
                                  float current) {
  if (layer.conv_width == 0) return current;
  const int64_t history = layer.conv_width - 1;
  const float* weight = layer.conv_weight + channel * layer.conv_width;
  float* ring = history == 0 ? nullptr : place.Block<float>(layer.conv) + channel;
  float sum = weight[history] * current;
  for (int64_t age = 1; age <= history && age <= place.position; ++age) {
    sum += weight[history - age] * ring[(place.position - age) % history * layer.conv_channels];
  }
  if (history > 0) ring[place.position % history * layer.conv_channels] = current;
  return sum;
}

// Convolution, SiLU on the value, rotation; norms of the routing vectors come after.
__device__ inline void PrepareToken(const MixerLayer& layer, const MixerBatch& batch,
                                    const Place& place, const MixerScratch& s) {
  const int64_t share = layer.heads / layer.memory_heads, g = place.head;
  const int64_t r = layer.routing_dim, v = layer.head_dim, half = v / 2;
  const float* projected = batch.projected + place.token * batch.stride;
  // Channels of the convolution: q routing of all heads, k routing, values.
  const int64_t route_k_begin = layer.adapted ? 0 : layer.heads * r;
  const int64_t value_begin = route_k_begin + layer.memory_heads * r;
  if (!layer.adapted) {
    for (int64_t i = threadIdx.x; i < share * r; i += blockDim.x) {
      const int64_t channel = g * share * r + i;
      s.route_q[i] = ShortConv(layer, place, channel, projected[batch.route_q + channel]);
    }
  }
  for (int64_t i = threadIdx.x; i < r; i += blockDim.x) {
    const float x = projected[batch.route_k + g * r + i];
    s.route_k[i] = ShortConv(layer, place, route_k_begin + g * r + i, x);
  }
  for (int64_t i = threadIdx.x; i < v; i += blockDim.x) {
    const float x =
        ShortConv(layer, place, value_begin + g * v + i, projected[batch.value + g * v + i]);
    s.value[i] = layer.conv_width > 0 ? Silu(x) : x;
  }
  if (!layer.adapted && layer.window == 0) return;
  const float* cosines = batch.rope_cos + place.token * half;
  const float* sines = batch.rope_sin + place.token * half;
  for (int64_t i = threadIdx.x; i < (share + 1) * half; i += blockDim.x) {
    const int64_t vector = i / half, c = i % half;  // the queries, then the key
    const float* from = vector < share ? projected + batch.q + (g * share + vector) * v
                                       : projected + batch.k + g * v;
    float* to = vector < share ? s.query + vector * v : s.key;
    to[c] = from[c] * cosines[c] - from[c + half] * sines[c];
    to[c + half] = from[c + half] * cosines[c] + from[c] * sines[c];
  }
}

// x <- gain * x / sqrt(mean(x^2) + eps), by one warp.
__device__ inline void RmsNorm(const float* gain, float eps, int count, float* x) {
  const int lane = threadIdx.x % kWarp;
  float square = 0;
  for (int i = lane; i < count; i += kWarp) square += x[i] * x[i];
  const float scale = 1.0f / sqrtf(WarpSum(square) / static_cast<float>(count) + eps);
  for (int i = lane; i < count; i += kWarp) x[i] *= scale * gain[i];
}

__device__ inline void NormRoutes(const MixerLayer& layer, const MixerScratch& s) {
  const int share = layer.heads / layer.memory_heads, r = layer.routing_dim;
  const int warps = blockDim.x / kWarp;
  // The key's, then the queries'.
  for (int n = threadIdx.x / kWarp; n < 1 + share; n += warps) {
    if (n == 0 && layer.route_k_norm != nullptr) {
      RmsNorm(layer.route_k_norm, layer.norm_eps, r, s.route_k);
    }
    if (n > 0 && layer.route_q_norm != nullptr && !layer.adapted) {
      RmsNorm(layer.route_q_norm, layer.norm_eps, r, s.route_q + (n - 1) * r);
    }
  }
}

// Content, route and log-decay of the token that is written now: this one, or with a window the one
// that leaves it, whose place this one takes. False: none leaves.
__device__ inline bool ChooseContent(const MixerLayer& layer, const MixerBatch& batch,
                                     const Place& place, const MixerScratch& s, float& log_decay) {
  const int64_t v = layer.head_dim, r = layer.routing_dim, g = place.head;
  const float own_decay =
      layer.forget_head ? batch.log_decay[place.token * layer.memory_heads + g] : 0.0f;
  if (layer.window == 0) {
    for (int64_t i = threadIdx.x; i < v; i += blockDim.x) {
      s.content[i] = s.value[i];
      if (layer.adapted) s.content[v + i] = s.key[i];
    }
    for (int64_t i = threadIdx.x; i < r; i += blockDim.x) s.content_route[i] = s.route_k[i];
    log_decay = own_decay;
    return true;
  }
  const int64_t entry = place.position % layer.window * layer.memory_heads + g;
  float* key = place.Block<float>(layer.window_key) + entry * v;
  float* value = place.Block<float>(layer.window_value) + entry * v;
  float* route = place.Block<float>(layer.window_route) + entry * r;
  for (int64_t i = threadIdx.x; i < v; i += blockDim.x) {
    s.content[i] = value[i];
    s.content[v + i] = key[i];
    value[i] = s.value[i];
    key[i] = s.key[i];
  }
  for (int64_t i = threadIdx.x; i < r; i += blockDim.x) {
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
      if (resp != 0) step = static_cast<float>(resp / mass);
    }
    s.step[k] = step;
    s.log_mass[k] = mass == 0 ? -INFINITY : static_cast<float>(log(mass));
  }
}

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_MIXER_WRITE_CUH_
