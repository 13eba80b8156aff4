#include "server/options/limits.h"

#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::HasSubstr;

TEST(LimitsTest, EveryFieldHasOneRowWithARange) {
  std::set<std::string> fields;
  for (const Limit& limit : AllLimits()) {
    EXPECT_TRUE(fields.insert(std::string(limit.field)).second) << limit.field;
    EXPECT_LT(limit.min, limit.max) << limit.field;
  }
}

TEST(LimitsTest, BothEndsAreInside) {
  for (const Limit& limit : AllLimits()) {
    EXPECT_THAT(CheckLimit(limit, limit.min), IsOk());
    EXPECT_THAT(CheckLimit(limit, limit.max), IsOk());
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    for (const double outside :
         {std::nextafter(limit.min, -kInfinity), std::nextafter(limit.max, kInfinity), -kInfinity,
          kInfinity, std::nan("")}) {
      EXPECT_THAT(CheckLimit(limit, outside), StatusIs(absl::StatusCode::kInvalidArgument,
                                                       HasSubstr(std::string(limit.field))));
    }
  }
}

TEST(LimitsTest, MessageNamesFieldValueAndLimit) {
  EXPECT_THAT(CheckLimit(limits::kMaxTokens, 1048577),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "stop.max_tokens is 1048577 tokens, must be in [1, 1048576]"));
  EXPECT_THAT(
      CheckLimit(limits::kTopP, 1.5),
      StatusIs(absl::StatusCode::kInvalidArgument, "sampling.top_p is 1.5, must be in [1e-06, 1]"));
}

}  // namespace
}  // namespace gma
