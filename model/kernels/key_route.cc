#include "model/kernels/key_route.h"

#include <cmath>
#include <cstdint>

namespace gma {

std::vector<float> FoldedKeyRoute(const MixerConstants& constants) {
  if (constants.key_route == nullptr) return {};
  const int64_t r = constants.routing_dim, v = constants.head_dim, half = v / 2;
  std::vector<float> folded(static_cast<size_t>(constants.memory_heads * v * r));
  for (int64_t g = 0; g < constants.memory_heads; ++g) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = constants.window * std::pow(constants.rope_theta, -2.0 * i / v);
      const double cosine = std::cos(angle), sine = std::sin(angle);
      for (int64_t m = 0; m < r; ++m) {
        const float* row = constants.key_route + (g * r + m) * v;
        const double low = row[i], high = row[i + half];
        folded[(g * v + i) * r + m] = static_cast<float>(low * cosine + high * sine);
        folded[(g * v + i + half) * r + m] = static_cast<float>(high * cosine - low * sine);
      }
    }
  }
  return folded;
}

}  // namespace gma
