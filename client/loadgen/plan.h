// What the requests of a run are, decided by the seed alone and never by the server.
#ifndef GMA_CLIENT_LOADGEN_PLAN_H_
#define GMA_CLIENT_LOADGEN_PLAN_H_

#include <cstdint>
#include <random>

#include "absl/time/time.h"
#include "client/loadgen/flags.h"
#include "gma/v1/generation.pb.h"

namespace gma::client {

struct PlannedRequest {
  v1::GenerateRequest request;
  bool slow = false;         // reads slowly
  int64_t cancel_after = 0;  // tokens; 0: never
};

// Request number `index` of the run. Prompts are ids in [0, vocab_size).
PlannedRequest PlanRequest(const LoadFlags& flags, int32_t vocab_size, int64_t index);

// Times of arrival in an open loop, as durations since the start, ascending.
class Arrivals {
 public:
  // REQUIRES: flags.rate > 0.
  explicit Arrivals(const LoadFlags& flags);
  absl::Duration Next();

 private:
  const bool poisson_;
  const double rate_;  // a second
  std::mt19937_64 random_;
  int64_t count_ = 0;
  double seconds_ = 0;
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LOADGEN_PLAN_H_
