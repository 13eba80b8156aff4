#include "model/kernels/score_matrix.h"

#include <cmath>

namespace gma {
namespace {

// Subtracts from each of `rows` rows of K numbers its mean.
void CentreRows(double* matrix, int64_t rows, int32_t components) {
  for (int64_t row = 0; row < rows; ++row) {
    double* numbers = matrix + row * components;
    double mean = 0;
    for (int32_t k = 0; k < components; ++k) mean += numbers[k] / components;
    for (int32_t k = 0; k < components; ++k) numbers[k] -= mean;
  }
}

}  // namespace

void BuildScoreMatrix(const MixtureParameters& mixture, double* w2, double* w1, double* w0) {
  const int64_t heads = mixture.memory_heads;
  const int64_t components = mixture.components;
  const int64_t width = mixture.routing_dim;
  for (int64_t g = 0; g < heads; ++g) {
    for (int64_t k = 0; k < components; ++k) {
      double constant = mixture.prior_logits[g * components + k];
      for (int64_t m = 0; m < width; ++m) {
        const int64_t parameter = (g * components + k) * width + m;
        const int64_t entry = (g * width + m) * components + k;
        const double mean = mixture.mean[parameter];
        const double precision = 1.0 / mixture.variance[parameter];
        w2[entry] = -0.5 * precision;
        w1[entry] = precision * mean;
        constant += 0.5 * std::log(precision) - 0.5 * precision * mean * mean;
      }
      w0[g * components + k] = constant;
    }
  }
  CentreRows(w2, heads * width, mixture.components);
  CentreRows(w1, heads * width, mixture.components);
  CentreRows(w0, heads, mixture.components);
}

}  // namespace gma
