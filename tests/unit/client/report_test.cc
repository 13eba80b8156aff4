#include "client/loadgen/report.h"

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace gma::client {
namespace {

LoadResult SomeResult() {
  LoadResult result;
  result.started = 3;
  result.succeeded = 2;
  result.failed = 1;
  result.errors["UNAVAILABLE"] = {1, "gone \xFF"};
  result.completion_tokens = 100;
  result.wall_seconds = 4;
  result.first_token.Add({0.25, 0.5});
  return result;
}

TEST(Report, JsonHoldsTheNumbersAndSurvivesAnyMessage) {
  const auto json = nlohmann::json::parse(JsonOf(LoadFlags(), v1::ModelInfo(), SomeResult()));
  EXPECT_EQ(json["requests"]["started"], 3);
  EXPECT_EQ(json["errors"]["UNAVAILABLE"]["count"], 1);
  EXPECT_EQ(json["completion_tokens_per_second"], 25.0);
  EXPECT_EQ(json["requests_per_second"], 0.5);
  EXPECT_EQ(json["first_token_seconds"]["p50"], 0.25);
  EXPECT_EQ(json["first_token_seconds"]["max"], 0.5);
  EXPECT_EQ(json["load"]["loop"], "closed");
}

TEST(Report, TheTableNamesErrors) {
  const std::string table = TableOf(SomeResult());
  EXPECT_NE(table.find("UNAVAILABLE, 1 times: gone"), std::string::npos);
  EXPECT_NE(table.find("2 succeeded"), std::string::npos);
  EXPECT_NE(table.find("500.00"), std::string::npos);  // milliseconds
}

}  // namespace
}  // namespace gma::client
