#include "base/process_memory.h"

#include <unistd.h>

#include <fstream>

namespace gma {

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t pages = 0, resident = 0;
  return statm >> pages >> resident ? resident * sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace gma
