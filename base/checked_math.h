// Arithmetic on sizes that come from outside: a result that does not fit is an error, never a wrap.
#ifndef GMA_BASE_CHECKED_MATH_H_
#define GMA_BASE_CHECKED_MATH_H_

#include <cstdint>
#include <optional>

namespace gma {

// a + b, or nothing when it does not fit 64 bits.
inline std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t result;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}

// a * b, or nothing when it does not fit 64 bits.
inline std::optional<uint64_t> CheckedMul(uint64_t a, uint64_t b) {
  uint64_t result;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}

}  // namespace gma

#endif  // GMA_BASE_CHECKED_MATH_H_
