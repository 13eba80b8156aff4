// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#ifndef GMA_MODEL_SAMPLING_PHILOX_H_
#define GMA_MODEL_SAMPLING_PHILOX_H_

#include <array>
#include <cstdint>

namespace gma {

// Ten rounds of Philox on a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// A number in [0, 1) with 53 random bits for draw `position` of stream `seed`.
double PhiloxUniform(uint64_t seed, uint64_t position);

}  // namespace gma

#endif  // GMA_MODEL_SAMPLING_PHILOX_H_
