// Samples and their exact percentiles.
#ifndef GMA_CLIENT_LOADGEN_DISTRIBUTION_H_
#define GMA_CLIENT_LOADGEN_DISTRIBUTION_H_

#include <cstddef>
#include <vector>

namespace gma::client {

struct Summary {
  size_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};

// Keeps every sample (8 bytes each): a run is short, and a tail must not be rounded.
class Distribution {
 public:
  void Add(double value) { values_.push_back(value); }
  void Add(const std::vector<double>& values) {
    values_.insert(values_.end(), values.begin(), values.end());
  }
  // Percentile p is the smallest sample that at least p % of them do not exceed; all 0 without
  // samples.
  Summary Summarise() const;

 private:
  std::vector<double> values_;
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LOADGEN_DISTRIBUTION_H_
