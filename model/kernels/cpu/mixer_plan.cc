#include "model/kernels/cpu/mixer_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "model/kernels/key_route.h"

namespace gma::cpu {
namespace {

constexpr size_t kLanes = 16;

size_t Padded(size_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

hwy::AlignedFreeUniquePtr<float[]> Floats(size_t count, float fill = 0) {
  auto floats = hwy::AllocateAligned<float>(count);
  GMA_CHECK(floats != nullptr);
  std::fill(floats.get(), floats.get() + count, fill);
  return floats;
}

// Rows of `from` with zeros behind them; null for null.
hwy::AlignedFreeUniquePtr<float[]> PaddedRows(const float* from, size_t rows, size_t count) {
  if (from == nullptr) return nullptr;
  auto floats = Floats(rows * Padded(count));
  for (size_t row = 0; row < rows; ++row) {
    std::copy(from + row * count, from + (row + 1) * count, floats.get() + row * Padded(count));
  }
  return floats;
}

void FillScores(const MixerConstants& constants, MixerPlan& plan) {
  const size_t components = plan.components, r = plan.routing;
  plan.score = Floats(plan.memory_heads * plan.slots * r * 2);
  plan.score0 = Floats(plan.memory_heads * plan.slots, -std::numeric_limits<float>::infinity());
  for (size_t g = 0; g < plan.memory_heads; ++g) {
    for (size_t k = 0; k < components; ++k) {
      float* entry = plan.score.get() + (g * plan.slots + k / kLanes * kLanes) * r * 2 + k % kLanes;
      for (size_t m = 0; m < r; ++m) {
        const size_t from = (g * r + m) * components + k;
        entry[m * 2 * kLanes] = static_cast<float>(constants.score_w2[from]);
        entry[(m * 2 + 1) * kLanes] = static_cast<float>(constants.score_w1[from]);
      }
      plan.score0[g * plan.slots + k] = static_cast<float>(constants.score_w0[g * components + k]);
    }
  }
}

// Hands out pieces of a block of memory, each aligned to 64 bytes.
class Pieces {
 public:
  explicit Pieces(uint8_t* memory) : memory_(memory) {}
  template <typename T>
  T* Take(size_t count) {
    T* piece = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  uint8_t* memory_;
  size_t used_ = 0;
};

}  // namespace

MixerPlan::MixerPlan(const MixerConstants& constants)
    : heads(constants.heads),
      memory_heads(constants.memory_heads),
      share(heads / memory_heads),
      components(constants.components),
      slots(Padded(components)),
      routing(constants.routing_dim),
      routing_padded(Padded(routing)),
      width(constants.head_dim),
      width_padded(Padded(width)),
      memory_dim(constants.adapted ? 2 * width : width),
      window(constants.window),
      window_padded(Padded(window)),
      conv_width(constants.conv_width),
      conv_channels((constants.adapted ? 0 : heads * routing) + memory_heads * (routing + width)),
      adapted(constants.adapted),
      forget_head(constants.forget_head),
      forget_write(constants.forget_write),
      norm_eps(static_cast<float>(constants.norm_eps)),
      near_scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)))),
      slot_horizon(constants.slot_horizon),
      slot_bias(PaddedRows(constants.slot_bias, heads, components)),
      route_q_norm(PaddedRows(constants.route_q_norm, 1, routing)),
      route_k_norm(PaddedRows(constants.route_k_norm, 1, routing)),
      out_norm(PaddedRows(constants.out_norm, 1, width)) {
  GMA_CHECK(heads % memory_heads == 0);
  FillScores(constants, *this);
  if (conv_width > 0) {  // columns become rows
    conv_weight = Floats(conv_width * conv_channels);
    for (size_t channel = 0; channel < conv_channels; ++channel) {
      for (size_t tap = 0; tap < conv_width; ++tap) {
        conv_weight[tap * conv_channels + channel] =
            constants.conv_weight[channel * conv_width + tap];
      }
    }
  }
  const std::vector<float> folded = FoldedKeyRoute(constants);
  if (!folded.empty()) key_route = PaddedRows(folded.data(), memory_heads * width, routing);
  if (adapted) {
    for (size_t h = 0; h < heads; ++h) {
      slot_scale.push_back(
          static_cast<float>(constants.slot_scale[h] / std::sqrt(static_cast<double>(width))));
    }
  }
  for (size_t i = 0; slot_horizon > 0 && i < width / 2; ++i) {
    const double angle =
        static_cast<double>(kHorizonStep) *
        std::pow(constants.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    step_cos.push_back(std::cos(angle));
    step_sin.push_back(std::sin(angle));
  }
  if (forget_write) {
    forget_beta.assign(constants.forget_beta, constants.forget_beta + memory_heads);
  }
}

MixerScratch::MixerScratch(const MixerPlan& plan, uint8_t* memory) {
  Pieces pieces(memory);
  route_q = pieces.Take<float>(plan.share * plan.routing_padded);
  route_k = pieces.Take<float>(plan.routing_padded);
  query = pieces.Take<float>(plan.share * plan.width_padded);
  key = pieces.Take<float>(plan.width_padded);
  value = pieces.Take<float>(plan.width_padded);
  old_route = pieces.Take<float>(plan.routing_padded);
  old_key = pieces.Take<float>(plan.width_padded);
  old_value = pieces.Take<float>(plan.width_padded);
  plain_key = pieces.Take<float>(plan.key_route ? plan.width_padded : 0);
  vector_bytes = pieces.used();
  mass = pieces.Take<double>(plan.slots);
  resp = pieces.Take<float>(plan.slots);
  step = pieces.Take<float>(plan.slots);
  log_mass = pieces.Take<float>(plan.slots);
  logits = pieces.Take<float>(plan.share * (plan.slots + plan.window_padded));
  weight_sum = pieces.Take<float>(plan.share);
  partial = pieces.Take<float>(4 * kLanes * kLanes);
  out = pieces.Take<float>(plan.share * plan.width_padded);
  bytes = pieces.used();
}

}  // namespace gma::cpu
