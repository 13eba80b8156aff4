// What stands between the products of the cpu decoder. Fixed order of every sum, as in
// panel_product.h.
#ifndef GMA_MODEL_KERNELS_CPU_ELEMENTWISE_H_
#define GMA_MODEL_KERNELS_CPU_ELEMENTWISE_H_

#include <cstdint>

namespace gma::cpu {

// y = x / sqrt(mean(x^2) + eps) * gain, all [size]. THREADS: any.
void RmsNorm(const float* x, const float* gain, float eps, int64_t size, float* y);

// sums[i] = x[32 i] + ... + x[32 i + 31] for i < groups. THREADS: any.
void GroupSums(const float* x, int64_t groups, float* sums);

}  // namespace gma::cpu

#endif  // GMA_MODEL_KERNELS_CPU_ELEMENTWISE_H_
