// The second half of a mixer step for one memory head: one pass over slots and window, which
// updates the means and reads them, and the outputs (docs/MATH.md 5.2, 6, 11.1).
#ifndef GMA_MODEL_KERNELS_CUDA_MIXER_READ_CUH_
#define GMA_MODEL_KERNELS_CUDA_MIXER_READ_CUH_

#include <cuda_runtime.h>

#include <cmath>

#include "model/kernels/cuda/channels.cuh"
#include "model/kernels/cuda/mixer.h"
#include "model/kernels/cuda/mixer_scratch.cuh"
#include "model/kernels/cuda/mixer_write.cuh"
#include "model/kernels/cuda/warp.cuh"

namespace gma::cuda {

// Logits of the slots for all query heads of the memory head, without log mass: read "static".
// Beside a window the gauge matters: log-responsibilities, not raw scores (docs/MATH.md 11.1).
__device__ inline void StaticLogits(const MixerLayer& layer, const Place& place,
                                    const MixerScratch& s) {
  const int share = layer.heads / layer.memory_heads, slots = layer.components;
  for (int i = threadIdx.x; i < share * slots; i += blockDim.x) {
    s.logits[i] = Score(layer, place.head, i % slots, s.route_q + i / slots * layer.routing_dim);
  }
  if (layer.window == 0) return;
  __syncthreads();
  const int warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  for (int j = threadIdx.x / kWarp; j < share; j += warps) {
    const Softmax softmax(s.logits + j * slots, slots);
    const float log_sum = softmax.top + logf(softmax.sum);
    for (int k = lane; k < slots; k += kWarp) s.logits[j * slots + k] -= log_sum;
  }
}

// kHeads query heads, from `first` of the memory head on, as one warp sees them.
template <int kHeads, int kLanes>
struct HeadReads {
  Channels<kLanes> query[kHeads];
  RunningRead<kLanes> read[kHeads];
  int first, count;  // of the memory head's; count of them are real

  // queries [J, v]: of the memory head, in shared memory.
  __device__ void LoadQueries(const float* queries, int v) {
#pragma unroll
    for (int j = 0; j < kHeads; ++j) query[j].Load(queries + (first + min(j, count - 1)) * v, v);
  }

  // The warp's share of the slots; with `writes` their means are updated on the way.
  __device__ void Slots(const MixerLayer& layer, const Place& place, const MixerScratch& s,
                        bool writes) {
    const int v = layer.head_dim, slots = layer.components;
    const int share = layer.heads / layer.memory_heads;
    const int64_t width = layer.adapted ? 2 * v : v;
    float* memory = place.Block<float>(layer.memory) + place.head * slots * width;
    float* rest = layer.compensation == MixerLayer::kAbsent
                      ? nullptr
                      : place.Block<float>(layer.compensation) + place.head * slots * width;
    const float near_scale = 1.0f / sqrtf(static_cast<float>(v));
    for (int k = threadIdx.x / kWarp; k < slots; k += blockDim.x / kWarp) {
      const float log_mass = s.log_mass[k];
      if (log_mass == -INFINITY) continue;
      Channels<kLanes> value, key{};
      value.Load(memory + k * width, v);
      if (layer.adapted) key.Load(memory + k * width + v, v);
      if (writes && s.step[k] != 0) {
        float* left = rest == nullptr ? nullptr : rest + k * width;
        UpdateMean(s.content, s.step[k], v, memory + k * width, left, value);
        if (layer.adapted) {
          UpdateMean(s.content + v, s.step[k], v, memory + k * width + v,
                     left == nullptr ? nullptr : left + v, key);
        }
      }
#pragma unroll
      for (int j = 0; j < kHeads; ++j) {
        if (j >= count) break;
        const int64_t head = place.head * share + first + j;
        float logit = layer.adapted ? layer.slot_scale[head] * near_scale * query[j].Dot(key)
                                    : s.logits[(first + j) * slots + k];
        if (layer.slot_bias != nullptr) logit += layer.slot_bias[head * slots + k];
        read[j].Take(logit + log_mass, value);
      }
    }
  }

  // The warp's share of the window.
  __device__ void Window(const MixerLayer& layer, const Place& place) {
    if (layer.window == 0) return;
    const int v = layer.head_dim;
    const float scale = 1.0f / sqrtf(static_cast<float>(v));
    const float* keys = place.Block<float>(layer.window_key);
    const float* values = place.Block<float>(layer.window_value);
    const int64_t near = place.position + 1 < layer.window ? place.position + 1 : layer.window;
    for (int64_t age = threadIdx.x / kWarp; age < near; age += blockDim.x / kWarp) {
      const int64_t entry = (place.position - age) % layer.window * layer.memory_heads + place.head;
      Channels<kLanes> key, value;
      key.Load(keys + entry * v, v);
      value.Load(values + entry * v, v);
#pragma unroll
      for (int j = 0; j < kHeads; ++j) {
        if (j >= count) break;
        read[j].Take(scale * query[j].Dot(key), value);
      }
    }
  }
};

// The warps' reads become one: out [count, v] in shared memory; 0 where there was nothing to read.
template <int kHeads, int kLanes>
__device__ void MergeReads(const MixerLayer& layer, const HeadReads<kHeads, kLanes>& reads,
                           const MixerScratch& s) {
  const int v = layer.head_dim, part = v + 2;
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
#pragma unroll
  for (int j = 0; j < kHeads; ++j) {
    float* mine = s.parts + (warp * kHeads + j) * part;
    reads.read[j].values.Store(mine, v);
    if (threadIdx.x % kWarp == 0) {
      mine[v] = reads.read[j].top;
      mine[v + 1] = reads.read[j].sum;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < reads.count * v; i += blockDim.x) {
    const int j = i / v, c = i % v;
    float top = -INFINITY, sum = 0, value = 0;
    for (int w = 0; w < warps; ++w) top = fmaxf(top, s.parts[(w * kHeads + j) * part + v]);
    for (int w = 0; w < warps && top != -INFINITY; ++w) {
      const float* other = s.parts + (w * kHeads + j) * part;
      const float weight = expf(other[v] - top);
      sum += weight * other[v + 1];
      value += weight * other[c];
    }
    s.out[i] = sum == 0 ? 0.0f : value / sum;
  }
  __syncthreads();
}

// out_norm and out_gate of `count` query heads from `first` on; a warp a head.
__device__ inline void FinishHeads(const MixerLayer& layer, const MixerBatch& batch,
                                   const Place& place, const MixerScratch& s, int first,
                                   int count) {
  const int v = layer.head_dim, lane = threadIdx.x % kWarp;
  const int share = layer.heads / layer.memory_heads;
  for (int j = threadIdx.x / kWarp; j < count; j += blockDim.x / kWarp) {
    const int64_t channel = static_cast<int64_t>(place.head * share + first + j) * v;
    if (layer.out_norm != nullptr) RmsNorm(layer.out_norm, layer.norm_eps, v, s.out + j * v);
    const float* gate = batch.gate == MixerBatch::kAbsent
                            ? nullptr
                            : batch.projected + place.token * batch.stride + batch.gate + channel;
    float* out = batch.out + place.token * batch.out_stride + channel;
    for (int i = lane; i < v; i += kWarp) {
      out[i] = s.out[j * v + i] * (gate == nullptr ? 1.0f : Silu(gate[i]));
    }
  }
}

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_MIXER_READ_CUH_
