#include "client/loadgen/plan.h"

#include <cmath>

#include "gtest/gtest.h"

namespace gma::client {
namespace {

TEST(PlanRequest, IsDecidedBySeedAndIndex) {
  LoadFlags flags;
  flags.prompt_tokens = 50;
  flags.ignore_eos = true;
  const PlannedRequest planned = PlanRequest(flags, 768, 3);
  EXPECT_EQ(planned.request.SerializeAsString(),
            PlanRequest(flags, 768, 3).request.SerializeAsString());
  EXPECT_NE(planned.request.SerializeAsString(),
            PlanRequest(flags, 768, 4).request.SerializeAsString());
  EXPECT_EQ(planned.request.input().tokens().ids_size(), 50);
  for (const int32_t id : planned.request.input().tokens().ids()) {
    EXPECT_GE(id, 0);
    EXPECT_LT(id, 768);
  }
  EXPECT_TRUE(planned.request.stop().ignore_eos());
  EXPECT_FALSE(planned.slow);
  EXPECT_EQ(planned.cancel_after, 0);
}

TEST(PlanRequest, SharesAreKept) {
  LoadFlags flags;
  flags.slow_readers = 0.25;
  flags.cancels = 0.5;
  int slow = 0, cancelled = 0;
  for (int64_t i = 0; i < 2000; ++i) {
    const PlannedRequest planned = PlanRequest(flags, 10, i);
    slow += planned.slow ? 1 : 0;
    cancelled += planned.cancel_after > 0 ? 1 : 0;
    EXPECT_LE(planned.cancel_after, flags.max_tokens);
  }
  // Five standard deviations of a binomial count.
  EXPECT_NEAR(slow, 500, 5 * std::sqrt(2000 * 0.25 * 0.75));
  EXPECT_NEAR(cancelled, 1000, 5 * std::sqrt(2000 * 0.5 * 0.5));
}

TEST(Arrivals, ConstantOnesAreEvenlySpaced) {
  LoadFlags flags;
  flags.rate = 4;
  flags.arrivals = "constant";
  Arrivals arrivals(flags);
  EXPECT_EQ(arrivals.Next(), absl::ZeroDuration());
  EXPECT_EQ(arrivals.Next(), absl::Milliseconds(250));
  EXPECT_EQ(arrivals.Next(), absl::Milliseconds(500));
}

TEST(Arrivals, PoissonOnesHaveTheRateAndItsSpread) {
  LoadFlags flags;
  flags.rate = 10;
  Arrivals arrivals(flags);
  constexpr int kCount = 10000;
  double last = 0, squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const double now = absl::ToDoubleSeconds(arrivals.Next());
    EXPECT_GE(now, last);
    squares += (now - last) * (now - last);
    last = now;
  }
  // Gaps are exponential: mean 1/rate, mean square 2/rate^2; five standard errors.
  EXPECT_NEAR(last / kCount, 0.1, 5 * 0.1 / std::sqrt(kCount));
  EXPECT_NEAR(squares / kCount, 0.02, 5 * std::sqrt(20.0) * 0.01 / std::sqrt(kCount));
}

}  // namespace
}  // namespace gma::client
