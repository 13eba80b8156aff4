#include "client/lib/status.h"

#include <cstdint>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"

namespace gma::client {
namespace {

constexpr char kRetryKey[] = "retry-after-ms";             // of the trailing metadata
constexpr char kRetryPayload[] = "gma.v1/retry-after-ms";  // of the status

}  // namespace

absl::Status StatusOfCall(const grpc::Status& status, const grpc::ClientContext& context) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  const auto& metadata = context.GetServerTrailingMetadata();
  if (const auto hint = metadata.find(kRetryKey); hint != metadata.end()) {
    result.SetPayload(kRetryPayload,
                      absl::Cord(absl::string_view(hint->second.data(), hint->second.size())));
  }
  return result;
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryPayload);
  int64_t milliseconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &milliseconds) ||
      milliseconds < 0) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

std::string OneLine(const absl::Status& status) {
  std::string line = absl::StatusCodeToString(status.code());
  if (!status.message().empty()) line += ": " + std::string(status.message());
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return line;
}

}  // namespace gma::client
