// docs/OPERATIONS.md names every flag, every limit and every metric that the program has.
#include <set>
#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/mapped_file.h"
#include "gtest/gtest.h"
#include "server/metrics/metric_table.h"
#include "server/options/limits.h"
#include "server/options/server_options.h"

namespace gma {
namespace {

std::string Page() {
  const auto page = ReadFile(std::string(GMA_SOURCE_DIR) + "/docs/OPERATIONS.md", 1 << 20);
  EXPECT_TRUE(page.ok()) << page.status().ToString();
  return page.ok() ? *page : "";
}

std::set<std::string> LinesOf(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

// The names that --help shows, such as "--max_sessions".
std::set<std::string> Flags() {
  const char* argv[] = {"gma-server", "--help"};
  std::set<std::string> flags;
  for (const std::string& line :
       LinesOf(std::get<PrintAndExit>(*ParseServerOptions(2, argv)).text)) {
    const size_t start = line.find_first_not_of(' ');
    if (start == std::string::npos || line.compare(start, 2, "--") != 0) continue;
    flags.insert(line.substr(start, line.find_first_of(" ,", start) - start));
  }
  return flags;
}

TEST(OperationsPageTest, HasARowForEveryFlagAndForNoOther) {
  const std::set<std::string> flags = Flags();
  ASSERT_GE(flags.size(), 20u);
  std::set<std::string> rows;
  for (const std::string& line : LinesOf(Page())) {
    if (line.rfind("| `--", 0) == 0) rows.insert(line.substr(3, line.find_first_of("` ", 3) - 3));
  }
  EXPECT_EQ(rows, flags);
}

TEST(OperationsPageTest, HoldsTheTableOfLimitsAsTheProgramPrintsIt) {
  const std::string page = Page();
  EXPECT_NE(page.find(LimitsMarkdown()), std::string::npos)
      << "put the output of gma-server --print_limits there:\n"
      << LimitsMarkdown();
}

TEST(OperationsPageTest, HasARowForEveryMetric) {
  const std::set<std::string> lines = LinesOf(Page());
  for (const MetricRow& row : AllMetrics()) {
    const char* type = row.type == MetricType::kCounter ? "counter"
                       : row.type == MetricType::kGauge ? "gauge"
                                                        : "histogram";
    const std::string line =
        absl::StrCat("| `", std::string(row.name), "` | ", type, " | ", std::string(row.labels),
                     " | ", std::string(row.help), " |");
    EXPECT_EQ(lines.count(line), 1u) << line;
  }
}

}  // namespace
}  // namespace gma
