// What stands between the products of the cpu decoder. Fixed order of every sum, as in
// panel_product.h.
#ifndef GMA_MODEL_KERNELS_CPU_ELEMENTWISE_H_
#define GMA_MODEL_KERNELS_CPU_ELEMENTWISE_H_

#include <cstdint>

namespace gma::cpu {

// y = x / sqrt(mean(x^2) + eps) * gain, all [size]. THREADS: any.
void RmsNorm(const float* x, const float* gain, float eps, int64_t size, float* y);

// Rounds the inputs x of 32 `groups` columns to 16 bits: x = scale * q within half a scale, where
// the largest is 32767 scales (inputs that are not all finite: scale NaN, q = 0). Writes q
// [32 groups] and its sums over each 32, exact; returns the scale. Equal on every CPU. THREADS:
// any.
float RoundInput(const float* x, int64_t groups, int16_t* q, float* sums);

}  // namespace gma::cpu

#endif  // GMA_MODEL_KERNELS_CPU_ELEMENTWISE_H_
