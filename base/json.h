// Strict JSON for files and texts from outside: duplicate keys, depth beyond 64, numbers that do
// not fit, NaN, trailing text and invalid UTF-8 are refused.
#ifndef GMA_BASE_JSON_H_
#define GMA_BASE_JSON_H_

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace gma {

inline constexpr size_t kMaxJsonDepth = 64;

struct JsonLimits {
  size_t max_bytes;                // longer texts are refused before they are parsed
  size_t max_values = 10'000'000;  // keys and values together; bounds memory and time
};

// Parses `text`; objects keep the order of their keys.
// ERRORS: kInvalidArgument with the byte position and the reason, never with the text itself.
absl::StatusOr<nlohmann::ordered_json> ParseJson(std::string_view text, const JsonLimits& limits);

}  // namespace gma

#endif  // GMA_BASE_JSON_H_
