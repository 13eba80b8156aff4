// A layer of any options as the SIMD mixer sees it: weights and state from TestMixer, tokens packed
// as the decoder packs its projections, the instruction set of choice.
#ifndef GMA_TESTS_UNIT_KERNELS_CPU_MIXER_CASE_H_
#define GMA_TESTS_UNIT_KERNELS_CPU_MIXER_CASE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hwy/aligned_allocator.h"
#include "model/kernels/cpu/mixer.h"
#include "model/kernels/reference/mixer_head.h"
#include "tests/unit/kernels/cpu/targets.h"
#include "tests/unit/kernels/test_mixer.h"

namespace gma::testing {

struct MixerCase {
  std::string name = {};
  int32_t heads = 4, memory_heads = 2, components = 5, routing_dim = 3, head_dim = 8;
  int32_t window = 0, conv_width = 0;
  bool adapted = false, forget_head = false, forget_write = false;
  bool route_norm = false, out_norm = false, gated = false, compensated = false;
  int64_t slot_horizon = 0;
  bool route_from_key = false;
};

// A TestMixer with the options of `options`, and tokens for it.
class CaseMixer {
 public:
  CaseMixer(const MixerCase& options, uint32_t seed)
      : mixer(seed), has_qk_(options.window > 0 || options.adapted) {
    MixerConstants& constants = mixer.constants;
    constants.heads = options.heads;
    constants.memory_heads = options.memory_heads;
    constants.components = options.components;
    constants.routing_dim = options.routing_dim;
    constants.head_dim = options.head_dim;
    constants.window = options.window;
    constants.conv_width = options.conv_width;
    constants.adapted = options.adapted;
    constants.forget_head = options.forget_head;
    constants.forget_write = options.forget_write;
    constants.slot_horizon = options.slot_horizon;
    mixer.gated = options.gated;
    mixer.route_from_key = options.route_from_key;
    norm_ = mixer.random.Floats(3 * 256, 1);
    if (options.route_norm) {
      constants.route_q_norm = norm_.data();
      constants.route_k_norm = norm_.data() + 256;
    }
    if (options.out_norm) constants.out_norm = norm_.data() + 512;
    mixer.Build(options.compensated);
  }

  // Projections of tokens side by side, as the decoder has them; `tokens` lacks `out`.
  struct PackedTokens {
    std::vector<float> projected, cos, sin, log_decay;
    cpu::MixerTokens tokens{};
  };

  int64_t out_width() const {
    return static_cast<int64_t>(mixer.constants.heads) * mixer.constants.head_dim;
  }

  // Feeds tokens[begin, end) to the kernel, in one call a memory head; [tokens, H, v].
  std::vector<float> Run(const cpu::Mixer& kernel, const std::vector<TestToken>& tokens,
                         size_t begin, size_t end) {
    PackedTokens packed = Pack(tokens, begin, end);
    std::vector<float> out((end - begin) * out_width());
    packed.tokens.out = out.data();
    packed.tokens.out_stride = out_width();
    auto scratch = hwy::AllocateAligned<uint8_t>(kernel.scratch_bytes());
    // What scratch holds before must not matter.
    std::fill(scratch.get(), scratch.get() + kernel.scratch_bytes(), uint8_t{0xFF});
    for (int32_t g = 0; g < mixer.constants.memory_heads; ++g) {
      kernel.Run(packed.tokens, mixer.state, g, scratch.get());
    }
    mixer.position += static_cast<int64_t>(end - begin);
    return out;
  }

  // Everything the row holds, as numbers.
  std::vector<float> StateNumbers() const {
    const MixerConstants& c = mixer.constants;
    const int64_t G = c.memory_heads, w = c.window, v = c.head_dim;
    const int64_t channels = (c.adapted ? 0 : c.heads * c.routing_dim) + G * (c.routing_dim + v);
    std::vector<float> numbers(mixer.memory);
    numbers.insert(numbers.end(), mixer.slot_position.begin(), mixer.slot_position.end());
    const auto add = [&numbers](const float* from, int64_t count) {
      numbers.insert(numbers.end(), from, from + count);
    };
    if (c.conv_width > 0) add(mixer.state.conv, (c.conv_width - 1) * channels);
    add(mixer.state.window_key, w * G * v);
    add(mixer.state.window_value, w * G * v);
    add(mixer.state.window_route, mixer.route_from_key ? 0 : w * G * c.routing_dim);
    add(mixer.state.window_log_decay, w * G);
    return numbers;
  }

  // tokens[begin, end) at the position of the mixer.
  PackedTokens Pack(const std::vector<TestToken>& tokens, size_t begin, size_t end) const {
    const MixerConstants& c = mixer.constants;
    constexpr int64_t kAbsent = cpu::MixerTokens::kAbsent;
    PackedTokens packed;
    packed.tokens.position = mixer.position;
    packed.tokens.count = static_cast<int64_t>(end - begin);
    for (size_t t = begin; t < end; ++t) {
      const int64_t row = static_cast<int64_t>(packed.projected.size());
      const auto add = [&](bool present, const std::vector<float>& part) -> int64_t {
        if (!present) return kAbsent;
        const int64_t column = static_cast<int64_t>(packed.projected.size()) - row;
        packed.projected.insert(packed.projected.end(), part.begin(), part.end());
        return column;
      };
      packed.tokens.route_q = add(!c.adapted, tokens[t].route_q);
      packed.tokens.route_k = add(!mixer.route_from_key, tokens[t].route_k);
      packed.tokens.value = add(true, tokens[t].value);
      packed.tokens.q = add(has_qk_, tokens[t].q);
      packed.tokens.k = add(has_qk_, tokens[t].k);
      packed.tokens.gate = add(mixer.gated, tokens[t].gate);
      packed.projected.push_back(0);  // a stride that is no sum of the parts
      packed.tokens.stride = static_cast<int64_t>(packed.projected.size()) - row;
      packed.log_decay.insert(packed.log_decay.end(), tokens[t].log_decay.begin(),
                              tokens[t].log_decay.end());
      const reference::RopeAngles angles(mixer.position + static_cast<int64_t>(t - begin),
                                         c.rope_theta, c.head_dim);
      packed.cos.insert(packed.cos.end(), angles.cos.begin(), angles.cos.end());
      packed.sin.insert(packed.sin.end(), angles.sin.begin(), angles.sin.end());
    }
    packed.tokens.projected = packed.projected.data();
    packed.tokens.log_decay = c.forget_head ? packed.log_decay.data() : nullptr;
    packed.tokens.rope_cos = packed.cos.data();
    packed.tokens.rope_sin = packed.sin.data();
    return packed;
  }

  TestMixer mixer;

 private:
  bool has_qk_;
  std::vector<float> norm_;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_KERNELS_CPU_MIXER_CASE_H_
