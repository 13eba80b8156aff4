// One row of a mixer's numbers, dealt to the lanes of a warp: how means are updated and read.
#ifndef GMA_MODEL_KERNELS_CUDA_CHANNELS_CUH_
#define GMA_MODEL_KERNELS_CUDA_CHANNELS_CUH_

#include <cuda_runtime.h>

#include <cmath>

#include "model/kernels/cuda/warp.cuh"

namespace gma::cuda {

// The channels of one row of numbers that a lane holds: lane, lane + 32, ...
template <int kLanes>
struct Channels {
  float x[kLanes];

  __device__ void Load(const float* row, int count) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      x[i] = lane + i * kWarp < count ? row[lane + i * kWarp] : 0.0f;
    }
  }
  __device__ void Store(float* row, int count) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      if (lane + i * kWarp < count) row[lane + i * kWarp] = x[i];
    }
  }
  __device__ float Dot(const Channels& other) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) sum += x[i] * other.x[i];
    return WarpSum(sum);
  }
};

// mean <- mean + step (content - mean); `rest`, or null, is what rounding the means to float32 left
// out (docs/MATH.md 7).
template <int kLanes>
__device__ void UpdateMean(const float* content, float step, int count, float* mean, float* rest,
                           Channels<kLanes>& now) {
  Channels<kLanes> target;
  target.Load(content, count);
  if (rest == nullptr) {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) now.x[i] += step * (target.x[i] - now.x[i]);
  } else {
    Channels<kLanes> left;
    left.Load(rest, count);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      double exact = static_cast<double>(now.x[i]) + left.x[i];
      exact += static_cast<double>(step) * (target.x[i] - exact);
      now.x[i] = static_cast<float>(exact);
      left.x[i] = static_cast<float>(exact - now.x[i]);
    }
    left.Store(rest, count);
  }
  now.Store(mean, count);
}

// A softmax over what one warp has seen so far: largest logit, weights and weighted values relative
// to it.
template <int kLanes>
struct RunningRead {
  float top = -INFINITY, sum = 0;
  Channels<kLanes> values{};

  __device__ void Take(float logit, const Channels<kLanes>& value) {
    if (logit == -INFINITY) return;
    const float now = fmaxf(top, logit);
    const float before = expf(top - now), weight = expf(logit - now);
    top = now;
    sum = sum * before + weight;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) values.x[i] = values.x[i] * before + weight * value.x[i];
  }
};

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_CHANNELS_CUH_
