// bfloat16 on the CPU; see cuda_runtime_api.h.
#ifndef GMA_TESTS_SUPPORT_CUDA_EMULATOR_CUDA_BF16_H_
#define GMA_TESTS_SUPPORT_CUDA_EMULATOR_CUDA_BF16_H_

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t wide = uint32_t{x.bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// To nearest, ties to even; NaN is not asked for.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t wide;
  std::memcpy(&wide, &x, sizeof(wide));
  wide += 0x7FFF + (wide >> 16 & 1);
  return {static_cast<uint16_t>(wide >> 16)};
}

#endif  // GMA_TESTS_SUPPORT_CUDA_EMULATOR_CUDA_BF16_H_
