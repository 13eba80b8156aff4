// A broken invariant ends the simulation and says how to see it again.
#ifndef GMA_TESTS_SIM_SIM_CHECK_H_
#define GMA_TESTS_SIM_SIM_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace gma::testing {

struct SimPosition {
  uint64_t seed = 0;
  int64_t event = 0;
  size_t server = 0;  // of those that share a store
};

// Where the simulation stands. One simulation runs in a process.
inline SimPosition sim_position;

// Whether every word between clients and store is printed, and a line of it.
inline bool sim_trace = false;
void SimTrace(const std::string& line);

// Prints seed, event and `what`, and exits with 1.
[[noreturn]] void SimFailed(const char* file, int line, const std::string& what);

}  // namespace gma::testing

#define SIM_EXPECT(condition, what) \
  ((condition) ? static_cast<void>(0) : ::gma::testing::SimFailed(__FILE__, __LINE__, (what)))

#endif  // GMA_TESTS_SIM_SIM_CHECK_H_
