#include "base/log.h"

#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace gma {
namespace {

using nlohmann::ordered_json;

// The lines that `write` leaves on standard error, parsed.
template <typename Write>
std::vector<ordered_json> Logged(Write write) {
  ::testing::internal::CaptureStderr();
  write();
  std::istringstream text(::testing::internal::GetCapturedStderr());
  std::vector<ordered_json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(ordered_json::parse(line));
  return lines;
}

TEST(Log, WritesOneJsonObjectALine) {
  const auto lines = Logged([] {
    GMA_LOG(kInfo, "session_opened",
            {{"session", "ab12"}, {"rows", 3}, {"share", 0.5}, {"new", true}, {"id", uint16_t{7}}});
  });
  ASSERT_EQ(lines.size(), 1u);
  const ordered_json& line = lines[0];
  EXPECT_EQ(line["level"], "info");
  EXPECT_EQ(line["event"], "session_opened");
  EXPECT_EQ(line["session"], "ab12");
  EXPECT_EQ(line["rows"], 3);
  EXPECT_EQ(line["share"], 0.5);
  EXPECT_EQ(line["new"], true);
  EXPECT_EQ(line["id"], 7);
  absl::Time time;
  std::string error;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, line["time"].get<std::string>(), &time, &error))
      << error;
}

TEST(Log, AValueCannotForgeASecondLine) {
  const auto lines = Logged([] {
    GMA_LOG(kWarning, "bad\nevent",
            {{"user", "a\n{\"level\":\"error\"}\x1b[31m"}, {"k\"", "\xff"}});
  });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["user"], "a\n{\"level\":\"error\"}\x1b[31m");
  EXPECT_EQ(lines[0]["k\""], "\xef\xbf\xbd") << "invalid UTF-8 is replaced";
}

TEST(Log, LinesBelowTheLevelAreDropped) {
  const auto by_default = Logged([] {
    GMA_LOG(kDebug, "dropped");
    GMA_LOG(kError, "kept");
  });
  ASSERT_EQ(by_default.size(), 1u);
  EXPECT_EQ(by_default[0]["event"], "kept");
  SetLogLevel(LogLevel::kDebug);
  EXPECT_EQ(Logged([] { GMA_LOG(kDebug, "kept"); }).size(), 1u);
  SetLogLevel(LogLevel::kError);
  EXPECT_EQ(Logged([] { GMA_LOG(kWarning, "dropped"); }).size(), 0u);
  SetLogLevel(LogLevel::kInfo);
}

TEST(Log, LinesOfManyThreadsStayWhole) {
  constexpr int kThreads = 8, kLines = 200;
  const std::string filler(500, 'x');
  const auto lines = Logged([&] {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < kLines; ++i) GMA_LOG(kInfo, "line", {{"filler", filler}});
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  ASSERT_EQ(lines.size(), static_cast<size_t>(kThreads * kLines));
  for (const ordered_json& line : lines) ASSERT_EQ(line["filler"], filler);
}

}  // namespace
}  // namespace gma
