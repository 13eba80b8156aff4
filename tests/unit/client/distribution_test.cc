#include "client/loadgen/distribution.h"

#include "gtest/gtest.h"

namespace gma::client {
namespace {

TEST(Distribution, PercentilesAreSamples) {
  Distribution distribution;
  for (int i = 100; i >= 1; --i) distribution.Add(i);
  const Summary summary = distribution.Summarise();
  EXPECT_EQ(summary.count, 100u);
  EXPECT_DOUBLE_EQ(summary.mean, 50.5);
  EXPECT_EQ(summary.p50, 50);
  EXPECT_EQ(summary.p90, 90);
  EXPECT_EQ(summary.p99, 99);
  EXPECT_EQ(summary.max, 100);
}

TEST(Distribution, FewSamplesRoundUp) {
  Distribution distribution;
  EXPECT_EQ(distribution.Summarise().count, 0u);
  EXPECT_EQ(distribution.Summarise().p99, 0);
  distribution.Add({3, 1});
  EXPECT_EQ(distribution.Summarise().p50, 1);
  EXPECT_EQ(distribution.Summarise().p90, 3);
  distribution.Add(2);
  EXPECT_EQ(distribution.Summarise().p50, 2);
}

}  // namespace
}  // namespace gma::client
