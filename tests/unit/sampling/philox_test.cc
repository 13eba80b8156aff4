#include "model/sampling/philox.h"

#include <cmath>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gma {
namespace {

using ::testing::ElementsAre;

// The known answers of Random123 (file kat_vectors, "philox4x32 10").
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(
      Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
      ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxUniform, IsSpreadEvenlyOverZeroToOne) {
  constexpr int kDraws = 1'000'000, kBins = 100;
  std::vector<int> bins(kBins);
  double sum = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = PhiloxUniform(42, static_cast<uint64_t>(i));
    ASSERT_TRUE(u >= 0 && u < 1);
    ++bins[static_cast<size_t>(u * kBins)];
    sum += u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  double chi_squared = 0;
  const double expected = static_cast<double>(kDraws) / kBins;
  for (int count : bins) chi_squared += (count - expected) * (count - expected) / expected;
  // 99 degrees of freedom: mean 99, standard deviation 14.
  EXPECT_GT(chi_squared, 50);
  EXPECT_LT(chi_squared, 170);
}

TEST(PhiloxUniform, DependsOnAllBitsOfSeedAndPosition) {
  std::set<double> draws = {PhiloxUniform(0, 0)};
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_TRUE(draws.insert(PhiloxUniform(uint64_t{1} << bit, 0)).second) << "seed bit " << bit;
    EXPECT_TRUE(draws.insert(PhiloxUniform(0, uint64_t{1} << bit)).second)
        << "position bit " << bit;
  }
  EXPECT_EQ(PhiloxUniform(7, 9), PhiloxUniform(7, 9));
}

}  // namespace
}  // namespace gma
