#include <algorithm>
#include <cmath>
#include <vector>

#include "model/kernels/reference/mixer_parts.h"

namespace gma::reference {
namespace {

constexpr double kFlush = 0x1p-100;  // docs/MATH.md 2.4

}  // namespace

std::vector<double> Scores(const MixerConstants& constants, int32_t memory_head, const double* x) {
  const int64_t components = constants.components, r = constants.routing_dim;
  const double* w0 = constants.score_w0 + memory_head * components;
  std::vector<double> scores(w0, w0 + components);
  for (int64_t m = 0; m < r; ++m) {
    const double* w2 = constants.score_w2 + (memory_head * r + m) * components;
    const double* w1 = constants.score_w1 + (memory_head * r + m) * components;
    for (int64_t k = 0; k < components; ++k) scores[k] += (w2[k] * x[m] + w1[k]) * x[m];
  }
  return scores;
}

std::vector<double> WriteResponsibilities(const std::vector<double>& scores) {
  const double top = *std::max_element(scores.begin(), scores.end());
  std::vector<double> resp(scores.size());
  double sum = 0;
  for (size_t k = 0; k < scores.size(); ++k) {
    resp[k] = std::exp(scores[k] - top);
    sum += resp[k];
  }
  for (double& share : resp) {
    share /= sum;
    if (share < kFlush) share = 0;
  }
  return resp;
}

std::vector<double> LogResponsibilities(const std::vector<double>& scores) {
  const double top = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - top);
  const double log_sum = top + std::log(sum);
  std::vector<double> log_resp(scores);
  for (double& value : log_resp) value -= log_sum;
  return log_resp;
}

}  // namespace gma::reference
