// Any bytes as an exported session, in chunks whose size the last byte picks. Nobody has the key,
// so nothing is ever accepted; and nothing is allocated for a header that does not fit.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "server/session/snapshot.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const gma::SnapshotScope* const scope = [] {
    auto* made = new gma::SnapshotScope{.key = gma::StateKey::Random(),
                                        .fingerprint = "",
                                        .compensated = false,
                                        .row_bytes = 256,
                                        .vocab_size = 50};
    for (int i = 0; i < 32; ++i) made->fingerprint += "1f";
    return made;
  }();
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t chunk = size == 0 ? 1 : size_t{data[size - 1]} + 1;
  gma::SnapshotReader reader(*scope, "alice");
  while (!bytes.empty()) {
    const size_t count = std::min(chunk, bytes.size());
    const absl::Status status = reader.Add(bytes.substr(0, count));
    if (!status.ok()) {
      GMA_CHECK(!status.message().empty());
      return 0;
    }
    bytes.remove_prefix(count);
  }
  GMA_CHECK(!std::move(reader).Finish().ok());
  return 0;
}
