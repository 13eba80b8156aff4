// What a token brings for one memory head: convolution, rotation, norms (docs/MATH.md 11, 11.1).
#ifndef GMA_MODEL_KERNELS_CUDA_MIXER_PREPARE_CUH_
#define GMA_MODEL_KERNELS_CUDA_MIXER_PREPARE_CUH_

#include <cuda_runtime.h>

#include <cmath>

#include "model/kernels/cuda/mixer.h"
#include "model/kernels/cuda/mixer_scratch.cuh"
#include "model/kernels/cuda/warp.cuh"
#include "model/kernels/mixer_step.h"

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

// slot_horizon: turns the keys of slots that are too old (mixer_step.h, kHorizonStep).
__device__ inline void MoveOldSlots(const MixerLayer& layer, const Place& place) {
  if (layer.slot_horizon == 0 || place.position % kHorizonStep != 0) return;
  const int64_t slots = layer.components, v = layer.head_dim, half = v / 2;
  const double* masses = place.Block<double>(layer.mass) + place.head * slots;
  double* positions = place.Block<double>(layer.slot_position) + place.head * slots;
  const auto old = [&](int64_t k) {
    const double age = static_cast<double>(place.position) - positions[k];
    return masses[k] != 0 && age > static_cast<double>(layer.slot_horizon);
  };
  const bool compensated = layer.compensation != MixerLayer::kAbsent;
  for (int64_t i = threadIdx.x; i < slots * half; i += blockDim.x) {
    const int64_t k = i / half, c = i % half;
    if (!old(k)) continue;
    const int64_t begin = (2 * (place.head * slots + k) + 1) * v + c;
    float* key = place.Block<float>(layer.memory) + begin;
    float* rest = compensated ? place.Block<float>(layer.compensation) + begin : nullptr;
    const double low = compensated ? static_cast<double>(key[0]) + rest[0] : key[0];
    const double high = compensated ? static_cast<double>(key[half]) + rest[half] : key[half];
    const double turned_low = low * layer.step_cos[c] - high * layer.step_sin[c];
    const double turned_high = high * layer.step_cos[c] + low * layer.step_sin[c];
    key[0] = static_cast<float>(turned_low);
    key[half] = static_cast<float>(turned_high);
    if (!compensated) continue;
    rest[0] = static_cast<float>(turned_low - key[0]);
    rest[half] = static_cast<float>(turned_high - key[half]);
  }
  __syncthreads();  // all have looked at the positions
  for (int64_t k = threadIdx.x; k < slots; k += blockDim.x) {
    if (old(k)) positions[k] += static_cast<double>(kHorizonStep);
  }
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
  for (int64_t i = threadIdx.x; layer.key_route == nullptr && i < r; i += blockDim.x) {
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

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_MIXER_PREPARE_CUH_
