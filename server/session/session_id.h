// Names of sessions: 128 random bits, looked up in the caller's own map. An id is no secret and no
// right: another owner's id finds nothing.
#ifndef GMA_SERVER_SESSION_SESSION_ID_H_
#define GMA_SERVER_SESSION_SESSION_ID_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace gma {

class SessionId {
 public:
  // From the system's random source (OpenSSL RAND_bytes).
  static SessionId Random();
  // ERRORS: kInvalidArgument unless `hex` is 32 hex digits.
  static absl::StatusOr<SessionId> FromHex(std::string_view hex);
  explicit SessionId(std::array<uint64_t, 2> words) : words_(words) {}

  std::string Hex() const;    // 32 lower-case digits
  std::string Short() const;  // the first 8, for logs

  auto operator<=>(const SessionId&) const = default;  // NOLINT: no pointer
  template <typename H>
  friend H AbslHashValue(H state, const SessionId& id) {
    return H::combine(std::move(state), id.words_);
  }

 private:
  std::array<uint64_t, 2> words_;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SESSION_ID_H_
