#include "base/check.h"

#include <cstdint>

#include "base/checked_math.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::HasSubstr;

TEST(CheckDeathTest, ABrokenInvariantStopsTheProcessAndSaysWhere) {
  const int three = 3;
  GMA_CHECK(three == 3);
  EXPECT_DEATH(GMA_CHECK(three == 4), "check_test.cc:[0-9]+: check failed: three == 4");
}

TEST(CheckedMath, SumsAndProductsThatDoNotFitAreNothing) {
  EXPECT_EQ(CheckedAdd(2, 3), 5u);
  EXPECT_EQ(CheckedAdd(UINT64_MAX, 0), UINT64_MAX);
  EXPECT_EQ(CheckedAdd(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(CheckedMul(uint64_t{1} << 32, uint64_t{1} << 31), uint64_t{1} << 63);
  EXPECT_EQ(CheckedMul(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
  EXPECT_EQ(CheckedMul(UINT64_MAX, 0), 0u);
}

absl::StatusOr<int> Half(int number) {
  if (number % 2 != 0) return absl::InvalidArgumentError("odd");
  return number / 2;
}

absl::StatusOr<int> Quarter(int number) {
  GMA_ASSIGN_OR_RETURN(const int half, Half(number));
  GMA_ASSIGN_OR_RETURN(int quarter, Half(half));
  return quarter;
}

absl::Status CheckQuarter(int number) {
  GMA_RETURN_IF_ERROR(Quarter(number).status());
  return absl::OkStatus();
}

TEST(StatusMacros, TheFirstErrorIsReturnedAndValuesAreAssigned) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_THAT(CheckQuarter(8), IsOk());
  EXPECT_THAT(CheckQuarter(6), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
  EXPECT_THAT(Quarter(7), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("odd")));
}

TEST(RealClock, MonotonicTimeDoesNotGoBack) {
  const RealClock clock;
  absl::Duration last = clock.Monotonic();
  for (int i = 0; i < 1000; ++i) {
    const absl::Duration now = clock.Monotonic();
    ASSERT_GE(now, last);
    last = now;
  }
  EXPECT_GT(clock.Now(), absl::FromUnixSeconds(1'700'000'000));
}

}  // namespace
}  // namespace gma
