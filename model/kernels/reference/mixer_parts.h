// The parts of one mixer step for one memory head, in their order (docs/MATH.md 2, 5.2, 11.1). All
// arithmetic is double; only what the state row keeps is rounded to its type.
#ifndef GMA_MODEL_KERNELS_REFERENCE_MIXER_PARTS_H_
#define GMA_MODEL_KERNELS_REFERENCE_MIXER_PARTS_H_

#include <cstdint>
#include <vector>

#include "model/kernels/mixer_step.h"
#include "model/kernels/reference/mixer_head.h"

namespace gma::reference {

// What one token brings to memory head g and to the J = H / G query heads that read it, after
// convolution, norm and rotation.
struct HeadToken {
  std::vector<double> route_q;  // [J, r], empty with read "adapted"
  std::vector<double> route_k;  // [r]; with key_route empty
  std::vector<double> value;    // [v]
  std::vector<double> q;        // [J, v], rotated; empty in a layer without q and k
  std::vector<double> k;        // [v], rotated; likewise
  double log_decay;             // forget "head", else 0
};

// slot_horizon, before the token at `position`: turns the keys of old slots (kHorizonStep).
void MoveOldSlots(const MixerConstants& constants, const MixerState& state, int64_t position,
                  int32_t memory_head);

// Convolution (its ring moves on by one token), SiLU on the value, route_norm, rotation.
HeadToken PrepareToken(const MixerConstants& constants, const MixerInput& input,
                       const MixerState& state, const RopeAngles* angles, int32_t memory_head);

// Depthwise causal convolution of `count` channels from `channel` on; the token enters the ring.
std::vector<double> ShortConv(const MixerConstants& constants, const MixerState& state,
                              int64_t position, int32_t channel, const float* current,
                              int32_t count);

// x <- gain * x / sqrt(mean(x^2) + eps), for one vector of `count` numbers.
void RmsNorm(const float* gain, double eps, int32_t count, double* x);

// Rotates the pairs (x_i, x_{i + v/2}).
void Rotate(const RopeAngles& angles, double* x);

// The routing vector [r] of the token at `position` from its rotated key [v]: key_route times the
// key before rotation.
std::vector<double> KeyRoute(const MixerConstants& constants, int32_t memory_head,
                             const double* key, int64_t position);

// score_k(x) of the mixture of `memory_head`, [K] (docs/MATH.md 2.1).
std::vector<double> Scores(const MixerConstants& constants, int32_t memory_head, const double* x);

// softmax(scores), numbers below 2^-100 set to 0 (docs/MATH.md 2.4).
std::vector<double> WriteResponsibilities(const std::vector<double>& scores);

// log softmax(scores).
std::vector<double> LogResponsibilities(const std::vector<double>& scores);

// The slots of `memory_head` take a token (docs/MATH.md 5.2, "Gates in the mean form"):
//   mass_k <- exp(la_k) mass_k + r_k;  mean_k <- mean_k + (r_k / mass_k) (content - mean_k).
// content: [M] (value, then rotated key with read "adapted") of the token at `position`; route_k
// [r]; log_decay as in HeadToken (forget "write" makes its own from r_k).
void WriteToken(const MixerConstants& constants, const MixerState& state, int64_t position,
                int32_t memory_head, const std::vector<double>& content, const double* route_k,
                double log_decay);

// With a window: writes the token that leaves it, if there is one, and puts `token` in its place.
void AdvanceWindow(const MixerConstants& constants, const MixerState& state, int64_t position,
                   int32_t memory_head, const HeadToken& token);

// One softmax over the slots and the window tokens up to `position` (docs/MATH.md 6, 11.1): [J, v].
std::vector<double> Read(const MixerConstants& constants, const MixerState& state, int64_t position,
                         int32_t memory_head, const HeadToken& token);

}  // namespace gma::reference

#endif  // GMA_MODEL_KERNELS_REFERENCE_MIXER_PARTS_H_
