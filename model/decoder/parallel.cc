#include "model/decoder/parallel.h"

#include <ATen/Parallel.h>

#include <thread>

namespace gma {

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
