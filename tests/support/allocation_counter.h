// Counts allocations of all threads of a test binary: malloc and everything built on it.
#ifndef GMA_TESTS_SUPPORT_ALLOCATION_COUNTER_H_
#define GMA_TESTS_SUPPORT_ALLOCATION_COUNTER_H_

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GMA_NO_ALLOCATION_COUNTER  // a sanitizer has malloc for itself
#endif

namespace gma::testing {

// Allocations since the start of the process; 0 with GMA_NO_ALLOCATION_COUNTER.
int64_t AllocationsSoFar();

// Counts from its construction on.
class AllocationCounter {
 public:
  AllocationCounter() : start_(AllocationsSoFar()) {}
  int64_t count() const { return AllocationsSoFar() - start_; }

 private:
  int64_t start_;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_ALLOCATION_COUNTER_H_
