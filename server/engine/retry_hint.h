// When to try again, carried inside a status so that the rpc layer can put it into metadata.
#ifndef GMA_SERVER_ENGINE_RETRY_HINT_H_
#define GMA_SERVER_ENGINE_RETRY_HINT_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/status.h"

namespace gma {

// Key of the status payload: milliseconds as decimal text.
inline constexpr std::string_view kRetryAfterPayload = "gma.retry_after_ms";

// kResourceExhausted: `message` followed by "; retry in N ms", with the payload.
absl::Status RetryLater(std::string_view message, int64_t milliseconds);
// The hint of `status`, if it has one.
std::optional<int64_t> RetryAfterMs(const absl::Status& status);

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_RETRY_HINT_H_
