#include "server/engine/retry_hint.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace gma {
namespace {

absl::string_view PayloadKey() { return {kRetryAfterPayload.data(), kRetryAfterPayload.size()}; }

}  // namespace

absl::Status RetryLater(std::string_view message, int64_t milliseconds) {
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat(std::string(message), "; retry in ", milliseconds, " ms"));
  status.SetPayload(PayloadKey(), absl::Cord(absl::StrCat(milliseconds)));
  return status;
}

std::optional<int64_t> RetryAfterMs(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(PayloadKey());
  int64_t milliseconds = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &milliseconds)) return std::nullopt;
  return milliseconds;
}

}  // namespace gma
