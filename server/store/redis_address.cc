#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "server/store/redis_client.h"

namespace gma {

absl::StatusOr<RedisAddress> ParseRedisAddress(std::string_view url) {
  const absl::Status refused = absl::InvalidArgumentError(
      "the address of Redis must be redis://[:password@]host[:port][/database] or unix:/path");
  absl::string_view rest(url.data(), url.size());
  RedisAddress address;
  if (absl::ConsumePrefix(&rest, "unix:")) {
    address.unix_path = std::string(rest);
    if (rest.empty() || rest[0] != '/') return refused;
    return address;
  }
  if (!absl::ConsumePrefix(&rest, "redis://")) return refused;
  if (const size_t at = rest.rfind('@'); at != absl::string_view::npos) {
    if (at < 2 || rest[0] != ':') return refused;
    address.password = std::string(rest.substr(1, at - 1));
    rest.remove_prefix(at + 1);
  }
  if (const size_t slash = rest.find('/'); slash != absl::string_view::npos) {
    if (!absl::SimpleAtoi(rest.substr(slash + 1), &address.database) || address.database < 0) {
      return refused;
    }
    rest = rest.substr(0, slash);
  }
  const size_t bracket = rest.rfind(']');
  const size_t colon = rest.rfind(':');
  if (colon != absl::string_view::npos && (bracket == absl::string_view::npos || colon > bracket)) {
    if (!absl::SimpleAtoi(rest.substr(colon + 1), &address.port) || address.port < 1 ||
        address.port > 65535) {
      return refused;
    }
    rest = rest.substr(0, colon);
  }
  if (absl::ConsumePrefix(&rest, "[") != absl::ConsumeSuffix(&rest, "]") || rest.empty()) {
    return refused;
  }
  address.host = std::string(rest);
  return address;
}

}  // namespace gma
