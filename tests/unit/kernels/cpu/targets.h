// The instruction set of choice for the SIMD kernels under test.
#ifndef GMA_TESTS_UNIT_KERNELS_CPU_TARGETS_H_
#define GMA_TESTS_UNIT_KERNELS_CPU_TARGETS_H_

#include <cstdint>
#include <vector>

#include "hwy/targets.h"

namespace gma::testing {

// Instruction sets the kernels are compiled for and this CPU has, best first.
inline std::vector<int64_t> Targets() {
  std::vector<int64_t> targets;
#if HWY_ARCH_X86
  for (const int64_t target : {HWY_AVX3_DL, HWY_AVX3, HWY_AVX2, HWY_SSE4}) {
    if ((hwy::SupportedTargets() & target) != 0) targets.push_back(target);
  }
#elif HWY_ARCH_ARM
  targets.push_back(HWY_NEON);
#endif
  targets.push_back(HWY_SCALAR);
  return targets;
}

// Kernels run on `target` while this lives.
class ScopedTarget {
 public:
  explicit ScopedTarget(int64_t target) {
#if HWY_ARCH_X86
    if (target == HWY_AVX3_DL)
      target |= HWY_AVX3;  // of kernels that are not compiled for the former
#endif
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
  }
  ~ScopedTarget() {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
  }
};

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_KERNELS_CPU_TARGETS_H_
