// The recurrent part of one layer's mixer (model/kernels/mixer_step.h has the mathematics and the
// order of its parts), by SIMD: several tokens of one session through one memory head.
//
// SAME BITS: a token's output and the state after it depend on the tokens before it and on nothing
// else: not on how they were cut into calls, not on other sessions, not on threads. Sums over
// slots, window entries and channels run in one fixed order, sixteen lanes wide, on every CPU that
// has fused multiply-add (one without it has bits of its own).
#ifndef GMA_MODEL_KERNELS_CPU_MIXER_H_
#define GMA_MODEL_KERNELS_CPU_MIXER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "model/kernels/mixer_step.h"

namespace gma::cpu {

// Projections of `count` consecutive tokens of one session; borrowed. Token i's parts start at
// projected + i * stride + column; kAbsent for a part that the options leave out.
struct MixerTokens {
  static constexpr int64_t kAbsent = -1;
  int64_t position;  // tokens fed to the session before the first of these
  int64_t count;     // 1 or more
  const float* projected;
  int64_t stride;            // floats from one token's projections to the next one's
  int64_t route_q, route_k;  // [H, r] (absent with read "adapted"), [G, r] (with key_route)
  int64_t value;             // [G, v]
  int64_t q, k;              // [H, v], [G, v], not rotated yet; present with window or "adapted"
  int64_t gate;              // [H, v], before SiLU: out_gate
  const float* log_decay;    // [count, G] or null: forget "head"; <= 0
  const float *rope_cos,
      *rope_sin;  // [count, v/2] of each token's position; unused without q and k
  float* out;     // token i's [H, v] starts at out + i * out_stride
  int64_t out_stride;
};

// A layer's constants in the types and alignment that the kernel wants.
// THREADS: immutable after construction; Run from any threads at once for distinct (state, head).
class Mixer {
 public:
  // Copies everything `constants` points to.
  explicit Mixer(const MixerConstants& constants);
  ~Mixer();
  Mixer(Mixer&&) noexcept;
  Mixer& operator=(Mixer&&) noexcept;

  // Bytes of scratch that a call of Run needs; aligned to 64 by the caller, contents of no
  // interest.
  size_t scratch_bytes() const;

  // Feeds the tokens, in order, to one memory head: updates that head's part of `state` and writes
  // the outputs of its H / G query heads. Allocates nothing.
  // REQUIRES: 0 <= memory_head < G; `scratch` is the caller's alone during the call.
  void Run(const MixerTokens& tokens, const MixerState& state, int32_t memory_head,
           uint8_t* scratch) const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace gma::cpu

#endif  // GMA_MODEL_KERNELS_CPU_MIXER_H_
