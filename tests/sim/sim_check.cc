#include "tests/sim/sim_check.h"

#include <cstdio>
#include <cstdlib>

namespace gma::testing {

void SimTrace(const std::string& line) {
  std::fprintf(stderr, "%lld server %d: %s\n", static_cast<long long>(sim_position.event),
               static_cast<int>(sim_position.server), line.c_str());
}

void SimFailed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\nseed %llu, event %lld\n", file, line, what.c_str(),
               static_cast<unsigned long long>(sim_position.seed),
               static_cast<long long>(sim_position.event));
  std::_Exit(1);
}

}  // namespace gma::testing
