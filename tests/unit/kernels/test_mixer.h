// A layer's mixer with random weights, its state row and random tokens, for tests of the kernels.
#ifndef GMA_TESTS_UNIT_KERNELS_TEST_MIXER_H_
#define GMA_TESTS_UNIT_KERNELS_TEST_MIXER_H_

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "model/kernels/mixer_step.h"
#include "model/kernels/score_matrix.h"

namespace gma::testing {

// Numbers from N(mean, 1).
class RandomNumbers {
 public:
  explicit RandomNumbers(uint32_t seed) : engine_(seed) {}
  std::vector<float> Floats(size_t count, float mean = 0) {
    std::normal_distribution<float> normal(mean, 1);
    std::vector<float> numbers(count);
    for (float& number : numbers) number = normal(engine_);
    return numbers;
  }

 private:
  std::mt19937 engine_;
};

// Projections of one token with every part present; `input` leaves out what the layer has not.
struct TestToken {
  std::vector<float> route_q, route_k, value, q, k, log_decay, gate;
};

// Options are set in `constants` before Build; sizes must not change afterwards.
class TestMixer {
 public:
  explicit TestMixer(uint32_t seed) : random(seed) {
    constants.heads = 4;
    constants.memory_heads = 2;
    constants.components = 5;
    constants.routing_dim = 3;
    constants.head_dim = 8;
    constants.norm_eps = 1e-5;
    constants.rope_theta = 10000;
  }

  // Fills in weights, a zero state and, where asked for, compensation.
  void Build(bool compensated = false) {
    const size_t H = constants.heads, G = constants.memory_heads, K = constants.components;
    const size_t r = constants.routing_dim, v = constants.head_dim, w = constants.window;
    mean_ = random.Floats(G * K * r);
    prior_ = random.Floats(G * K);
    variance_.assign(G * K * r, 0.5);
    w2_.resize(G * r * K);
    w1_.resize(G * r * K);
    w0_.resize(G * K);
    BuildScoreMatrix({constants.memory_heads, constants.components, constants.routing_dim,
                      mean_.data(), variance_.data(), prior_.data()},
                     w2_.data(), w1_.data(), w0_.data());
    constants.score_w2 = w2_.data();
    constants.score_w1 = w1_.data();
    constants.score_w0 = w0_.data();
    slot_bias_ = random.Floats(H * K);
    slot_scale_ = random.Floats(H, 1);
    if (w > 0 || constants.adapted) constants.slot_bias = slot_bias_.data();
    if (constants.adapted) constants.slot_scale = slot_scale_.data();
    key_route_ = random.Floats(G * r * v);
    for (float& number : key_route_) number /= std::sqrt(static_cast<float>(v));
    if (route_from_key) constants.key_route = key_route_.data();
    forget_beta_.assign(G, 0.3);
    constants.forget_beta = forget_beta_.data();

    const size_t channels = (constants.adapted ? 0 : H * r) + G * (r + v);
    const size_t memory_dim = constants.adapted ? 2 * v : v;
    conv_weight_ = random.Floats(channels * constants.conv_width);
    constants.conv_weight = conv_weight_.data();
    mass.assign(G * K, 0);
    slot_position.assign(constants.slot_horizon > 0 && constants.adapted ? G * K : 0, 0);
    memory.assign(G * K * memory_dim, 0);
    compensation.assign(compensated ? memory.size() : 0, 0);
    conv_.assign(constants.conv_width > 0 ? (constants.conv_width - 1) * channels : 0, 0);
    window_key_.assign(w * G * v, 0);
    window_value_.assign(w * G * v, 0);
    window_route_.assign(route_from_key ? 0 : w * G * r, 0);
    window_log_decay_.assign(w * G, 0);
    state = {mass.data(),
             slot_position.empty() ? nullptr : slot_position.data(),
             memory.data(),
             compensated ? compensation.data() : nullptr,
             conv_.data(),
             window_key_.data(),
             window_value_.data(),
             window_route_.data(),
             window_log_decay_.data()};
  }

  TestToken Token() {
    const size_t H = constants.heads, G = constants.memory_heads;
    const size_t r = constants.routing_dim, v = constants.head_dim;
    return {random.Floats(H * r), random.Floats(G * r), random.Floats(G * v),
            random.Floats(H * v), random.Floats(G * v), std::vector<float>(G, -0.25f),
            random.Floats(H * v)};
  }

  MixerInput Input(const TestToken& token) const {
    const bool has_qk = constants.window > 0 || constants.adapted;
    return {.position = position,
            .route_q = constants.adapted ? nullptr : token.route_q.data(),
            .route_k = route_from_key ? nullptr : token.route_k.data(),
            .value = token.value.data(),
            .q = has_qk ? token.q.data() : nullptr,
            .k = has_qk ? token.k.data() : nullptr,
            .log_decay = constants.forget_head ? token.log_decay.data() : nullptr,
            .gate = gated ? token.gate.data() : nullptr};
  }

  // Feeds the token; [H, v].
  std::vector<float> Step(const TestToken& token) {
    std::vector<float> out(constants.heads * constants.head_dim);
    reference::MixerStep(constants, Input(token), state, out.data());
    ++position;
    return out;
  }

  // Scores become w1[k] * x_0 + w0[k] in every memory head. REQUIRES: Build was called.
  void SetScores(const std::vector<double>& w1, const std::vector<double>& w0) {
    const int32_t K = constants.components, r = constants.routing_dim;
    w2_.assign(w2_.size(), 0);
    w1_.assign(w1_.size(), 0);
    for (int32_t g = 0; g < constants.memory_heads; ++g) {
      for (int32_t k = 0; k < K; ++k) {
        w1_[g * r * K + k] = w1[k];
        w0_[g * K + k] = w0[k];
      }
    }
  }
  // Slot bias 0 and scale 1 for every head.
  void NeutralSlots() {
    slot_bias_.assign(slot_bias_.size(), 0);
    slot_scale_.assign(slot_scale_.size(), 1);
  }

  RandomNumbers random;
  MixerConstants constants{};
  bool gated = false, route_from_key = false;
  int64_t position = 0;
  MixerState state{};
  std::vector<double> mass, slot_position;
  std::vector<float> memory, compensation;

 private:
  std::vector<float> mean_, prior_, slot_bias_, slot_scale_, conv_weight_, key_route_;
  std::vector<double> variance_, w2_, w1_, w0_, forget_beta_;
  std::vector<float> conv_, window_key_, window_value_, window_route_, window_log_decay_;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_KERNELS_TEST_MIXER_H_
