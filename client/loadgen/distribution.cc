#include "client/loadgen/distribution.h"

#include <algorithm>
#include <numeric>

namespace gma::client {

Summary Distribution::Summarise() const {
  Summary summary;
  if (values_.empty()) return summary;
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  const auto percentile = [&](size_t percent) {
    const size_t rank = (percent * sorted.size() + 99) / 100;  // rounded up, from 1
    return sorted[rank - 1];
  };
  summary.count = sorted.size();
  summary.mean =
      std::accumulate(sorted.begin(), sorted.end(), 0.0) / static_cast<double>(sorted.size());
  summary.p50 = percentile(50);
  summary.p90 = percentile(90);
  summary.p99 = percentile(99);
  summary.max = sorted.back();
  return summary;
}

}  // namespace gma::client
