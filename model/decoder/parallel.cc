#include "model/decoder/parallel.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

namespace gma {

void LetComputeThreadsSleep(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0);
  execv("/proc/self/exe", argv);  // comes back only when it fails: slower then, not wrong
}

void SetComputeThreads(int32_t threads) {
  at::set_num_threads(threads > 0 ? threads
                                  : static_cast<int>(std::thread::hardware_concurrency()));
}

void ParallelFor(int64_t count, const std::function<void(int64_t)>& body) {
  at::parallel_for(0, count, /*grain_size=*/1, [&body](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

}  // namespace gma
