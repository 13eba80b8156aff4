#include "server/options/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"

namespace gma {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxOwnerBytes = 64;

bool IsOwner(absl::string_view owner) {
  const auto allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  };
  return !owner.empty() && owner.size() <= kMaxOwnerBytes &&
         std::all_of(owner.begin(), owner.end(), allowed);
}

std::optional<std::array<uint8_t, 32>> ParseHash(absl::string_view hex) {
  const auto is_hex = [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); };
  if (hex.size() != 64 || !std::all_of(hex.begin(), hex.end(), is_hex)) return std::nullopt;
  const std::string bytes = absl::HexStringToBytes(hex);
  std::array<uint8_t, 32> hash;
  std::copy(bytes.begin(), bytes.end(), hash.begin());
  return hash;
}

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Load(const std::string& path) {
  GMA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  absl::StatusOr<ApiKeys> keys = Parse(text);
  if (keys.ok()) return keys;
  return absl::Status(keys.status().code(), absl::StrCat(path, ": ", keys.status().message()));
}

absl::StatusOr<ApiKeys> ApiKeys::Parse(std::string_view text) {
  ApiKeys keys;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const size_t colon = line.find(':');
    const absl::string_view owner = line.substr(0, std::min(colon, line.size()));
    const auto hash =
        colon == absl::string_view::npos ? std::nullopt : ParseHash(line.substr(colon + 1));
    if (!IsOwner(owner) || !hash.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "line ", number, " is not owner:sha256 with an owner of 1 to ", kMaxOwnerBytes,
          " letters, digits, dots, dashes or underscores and 64 hex digits"));
    }
    for (const Entry& entry : keys.entries_) {
      if (entry.hash == *hash) {
        return absl::InvalidArgumentError(absl::StrCat("line ", number, " repeats a key"));
      }
    }
    keys.entries_.push_back({std::string(owner), *hash});
  }
  if (keys.entries_.empty())
    return absl::InvalidArgumentError("there is no key in it, must hold at least 1");
  return keys;
}

std::optional<std::string> ApiKeys::OwnerOf(std::string_view key) const {
  std::array<uint8_t, 32> hash;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash.data());
  std::optional<std::string> owner;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.hash.data(), hash.data(), hash.size()) == 0) owner = entry.owner;
  }
  return owner;
}

}  // namespace gma
