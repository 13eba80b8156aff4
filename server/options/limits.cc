#include "server/options/limits.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace gma {
namespace {

constexpr Limit kAllLimits[] = {
#define GMA_LIST_LIMIT(constant, field, min, max, unit, meaning) limits::constant,
    GMA_LIMITS(GMA_LIST_LIMIT)
#undef GMA_LIST_LIMIT
};

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::Span<const Limit> AllLimits() { return kAllLimits; }

absl::Status CheckLimit(const Limit& limit, double value) {
  if (limit.min <= value && value <= limit.max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      View(limit.field), " is ", value, limit.unit.empty() ? "" : " ", View(limit.unit),
      ", must be in [", limit.min, ", ", limit.max, "]"));
}

}  // namespace gma
