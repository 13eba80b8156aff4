#include "server/options/limits.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace gma {
namespace {

constexpr Limit kAllLimits[] = {
#define GMA_LIST_LIMIT(constant, field, min, max, unit, meaning) limits::constant,
    GMA_LIMITS(GMA_LIST_LIMIT)
#undef GMA_LIST_LIMIT
};

// All digits of integers (StrCat rounds a double to six), six of others.
std::string Number(double value) {
  const bool integer = value == std::floor(value) && std::abs(value) < 1e15;
  return integer ? absl::StrCat(static_cast<int64_t>(value)) : absl::StrCat(value);
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::Span<const Limit> AllLimits() { return kAllLimits; }

absl::Status CheckLimit(const Limit& limit, double value) {
  if (limit.min <= value && value <= limit.max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      View(limit.field), " is ", Number(value), limit.unit.empty() ? "" : " ", View(limit.unit),
      ", must be in [", Number(limit.min), ", ", Number(limit.max), "]"));
}

std::string LimitsMarkdown() {
  std::string table = "| field | range | unit | meaning |\n| --- | --- | --- | --- |\n";
  for (const Limit& limit : AllLimits()) {
    absl::StrAppend(&table, "| `", View(limit.field), "` | [", Number(limit.min), ", ",
                    Number(limit.max), "] | ", View(limit.unit), " | ", View(limit.meaning),
                    " |\n");
  }
  return table;
}

}  // namespace gma
