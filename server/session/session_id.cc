#include "server/session/session_id.h"

#include <openssl/rand.h>

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace gma {
namespace {

constexpr size_t kHexDigits = 32;

// The value of a hex digit of either case, or -1.
int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

SessionId SessionId::Random() {
  std::array<uint64_t, 2> words;
  // Without random numbers ids could repeat: better no server than that.
  GMA_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(words.data()), sizeof(words)) == 1);
  return SessionId(words);
}

absl::StatusOr<SessionId> SessionId::FromHex(std::string_view hex) {
  if (hex.size() != kHexDigits) {
    return absl::InvalidArgumentError(
        absl::StrCat("session_id has ", hex.size(), " bytes, must be 32 hex digits"));
  }
  std::array<uint64_t, 2> words = {0, 0};
  for (size_t i = 0; i < kHexDigits; ++i) {
    const int value = HexValue(hex[i]);
    if (value < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("session_id is not hex at byte ", i, ", must be 32 hex digits"));
    }
    words[i / 16] = words[i / 16] << 4 | static_cast<uint64_t>(value);
  }
  return SessionId(words);
}

std::string SessionId::Hex() const {
  return absl::StrCat(absl::Hex(words_[0], absl::kZeroPad16),
                      absl::Hex(words_[1], absl::kZeroPad16));
}

std::string SessionId::Short() const { return Hex().substr(0, 8); }

}  // namespace gma
