#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "model/kernels/reference/mixer_parts.h"

namespace gma::reference {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

// <a, b>, in four partial sums that do not wait for each other.
double Dot(const double* a, const float* b, int32_t count) {
  double sums[4] = {0, 0, 0, 0};
  int32_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int32_t lane = 0; lane < 4; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < count; ++i) sums[0] += a[i] * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Unnormalised logits of the K slots for query head j of the memory head, without log mass.
std::vector<double> SlotLogits(const MixerConstants& constants, const MixerState& state,
                               int32_t memory_head, int32_t j, const HeadToken& token) {
  const int32_t v = constants.head_dim;
  const int64_t components = constants.components;
  const int32_t head = memory_head * (constants.heads / constants.memory_heads) + j;
  std::vector<double> logits;
  if (constants.adapted) {
    logits.resize(components);
    const double scale = constants.slot_scale[head] / std::sqrt(static_cast<double>(v));
    for (int64_t k = 0; k < components; ++k) {
      const float* mean_key = state.memory + (memory_head * components + k) * 2 * v + v;
      logits[k] = scale * Dot(token.q.data() + j * v, mean_key, v);
    }
  } else {
    // Beside a window the gauge matters: log-responsibilities, not raw scores (docs/MATH.md 11.1).
    logits = Scores(constants, memory_head, token.route_q.data() + j * constants.routing_dim);
    if (constants.window > 0) logits = LogResponsibilities(logits);
  }
  if (constants.slot_bias != nullptr) {
    for (int64_t k = 0; k < components; ++k)
      logits[k] += constants.slot_bias[head * components + k];
  }
  return logits;
}

// out <- sum of weight * row over rows, divided by the sum of weights; 0 without any weight.
class WeightedMean {
 public:
  WeightedMean(double top, int32_t count, double* out) : top_(top), count_(count), out_(out) {
    std::fill(out, out + count, 0.0);
  }
  void Add(double logit, const float* row) {
    if (logit == kNever) return;
    const double weight = std::exp(logit - top_);
    sum_ += weight;
    for (int32_t i = 0; i < count_; ++i) out_[i] += weight * row[i];
  }
  void Finish() {
    if (sum_ == 0) return;
    for (int32_t i = 0; i < count_; ++i) out_[i] /= sum_;
  }

 private:
  double top_;
  int32_t count_;
  double* out_;
  double sum_ = 0;
};

}  // namespace

std::vector<double> Read(const MixerConstants& constants, const MixerState& state, int64_t position,
                         int32_t memory_head, const HeadToken& token) {
  const int32_t v = constants.head_dim;
  const int32_t share = constants.heads / constants.memory_heads;
  const int64_t components = constants.components;
  const int64_t memory_dim = constants.adapted ? 2 * v : v;
  const int64_t near = std::min<int64_t>(position + 1, constants.window);
  const double near_scale = 1.0 / std::sqrt(static_cast<double>(v));
  std::vector<double> log_mass(components);
  for (int64_t k = 0; k < components; ++k) {
    const double mass = state.mass[memory_head * components + k];
    log_mass[k] = mass == 0 ? kNever : std::log(mass);
  }

  std::vector<double> out(share * v);
  std::vector<double> near_logits(near);
  for (int32_t j = 0; j < share; ++j) {
    std::vector<double> slot_logits = SlotLogits(constants, state, memory_head, j, token);
    double top = kNever;
    for (int64_t k = 0; k < components; ++k) {
      slot_logits[k] += log_mass[k];
      top = std::max(top, slot_logits[k]);
    }
    for (int64_t age = 0; age < near; ++age) {
      const int64_t entry =
          ((position - age) % constants.window) * constants.memory_heads + memory_head;
      near_logits[age] = near_scale * Dot(token.q.data() + j * v, state.window_key + entry * v, v);
      top = std::max(top, near_logits[age]);
    }
    WeightedMean mean(top, v, out.data() + j * v);
    for (int64_t k = 0; k < components; ++k) {
      mean.Add(slot_logits[k], state.memory + (memory_head * components + k) * memory_dim);
    }
    for (int64_t age = 0; age < near; ++age) {
      const int64_t entry =
          ((position - age) % constants.window) * constants.memory_heads + memory_head;
      mean.Add(near_logits[age], state.window_value + entry * v);
    }
    mean.Finish();
  }
  return out;
}

}  // namespace gma::reference
