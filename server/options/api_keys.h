// Who may call: a file of owners and the SHA-256 of their keys, never the keys themselves.
#ifndef GMA_SERVER_OPTIONS_API_KEYS_H_
#define GMA_SERVER_OPTIONS_API_KEYS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace gma {

// THREADS: immutable after Load.
class ApiKeys {
 public:
  // Reads lines "owner:hex" with the SHA-256 of the key in 64 hex digits; an owner may have several
  // lines. Empty lines and lines that start with # are skipped. At most 1 MiB.
  // ERRORS: kNotFound without the file; kInvalidArgument naming the line, never its content, for a
  // malformed or a repeated one, and when there is no key at all.
  static absl::StatusOr<ApiKeys> Load(const std::string& path);
  static absl::StatusOr<ApiKeys> Parse(std::string_view text);

  // The owner of `key`. Every entry is compared in full, whatever matches, so the time says
  // nothing about a key.
  std::optional<std::string> OwnerOf(std::string_view key) const;

 private:
  struct Entry {
    std::string owner;             // 1 to 64 of A-Z a-z 0-9 . _ -
    std::array<uint8_t, 32> hash;  // SHA-256 of the key
  };
  std::vector<Entry> entries_;
};

}  // namespace gma

#endif  // GMA_SERVER_OPTIONS_API_KEYS_H_
