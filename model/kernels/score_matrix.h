// The mixture's parameters as the matrix that turns [x*x, x, 1] into scores (MATH.md 2.1), in the
// centred gauge (MATH.md 2.2): each row loses its mean over k, which changes a score by a function
// of x alone and keeps magnitudes, and with them rounding errors, small.
#ifndef GMA_MODEL_KERNELS_SCORE_MATRIX_H_
#define GMA_MODEL_KERNELS_SCORE_MATRIX_H_

#include <cstdint>

namespace gma {

// Parameters of G mixtures of K components in a routing space of width r; borrowed.
struct MixtureParameters {
  int32_t memory_heads, components, routing_dim;
  const float* mean;          // [G, K, r]
  const double* variance;     // [G, K, r], positive
  const float* prior_logits;  // [G, K]
};

// Writes score_k(x) = sum_m w2[m,k] x_m^2 + w1[m,k] x_m + w0[k], up to a function of x alone.
// w2, w1: [G, r, K]; w0: [G, K].
void BuildScoreMatrix(const MixtureParameters& mixture, double* w2, double* w1, double* w0);

}  // namespace gma

#endif  // GMA_MODEL_KERNELS_SCORE_MATRIX_H_
