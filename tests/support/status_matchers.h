// GoogleTest matchers for absl::Status (the distribution's Abseil has none).
#ifndef GMA_TESTS_SUPPORT_STATUS_MATCHERS_H_
#define GMA_TESTS_SUPPORT_STATUS_MATCHERS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gma::testing {

inline const absl::Status& GetStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

// EXPECT_THAT(expr, IsOk());
MATCHER(IsOk, "is OK") {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).ok();
}

// EXPECT_THAT(expr, StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
MATCHER_P2(StatusIs, code, message,
           "has code " + absl::StatusCodeToString(code) + " and a message that " +
               ::testing::DescribeMatcher<std::string>(message)) {
  const absl::Status& status = GetStatus(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         ::testing::ExplainMatchResult(message, std::string(status.message()), result_listener);
}

}  // namespace gma::testing

#define GMA_TEST_CONCAT_INNER(a, b) a##b
#define GMA_TEST_CONCAT(a, b) GMA_TEST_CONCAT_INNER(a, b)
// Fails the test unless `expr`, an absl::StatusOr, holds a value, which is assigned to `lhs`.
#define GMA_ASSERT_OK_AND_ASSIGN(lhs, expr) \
  GMA_ASSERT_OK_AND_ASSIGN_IMPL(GMA_TEST_CONCAT(gma_test_or_, __LINE__), lhs, expr)
#define GMA_ASSERT_OK_AND_ASSIGN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  ASSERT_TRUE(tmp.ok()) << tmp.status().ToString();   \
  lhs = *std::move(tmp)

#endif  // GMA_TESTS_SUPPORT_STATUS_MATCHERS_H_
