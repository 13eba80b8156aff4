// What the sealed files of tests/golden/snapshot were made with (make_snapshot.py).
#ifndef GMA_TESTS_UNIT_SESSION_SEALED_FIXTURE_H_
#define GMA_TESTS_UNIT_SESSION_SEALED_FIXTURE_H_

#include <sys/stat.h>

#include <string>

#include "base/check.h"
#include "server/session/session_id.h"
#include "server/session/snapshot.h"
#include "tests/support/temp_dir.h"

namespace gma::testing {

// A row of 256 bytes: 64 for the position, 64 with the masses of 4 components, 128 of memory.
inline StateLayout GoldenLayout(bool compensated = false, int32_t head_dim = 8) {
  ModelConfig config{};
  config.num_attention_heads = config.num_memory_heads = 1;
  config.head_dim = head_dim;
  config.num_components = 4;
  config.routing_dim = 2;
  config.layers = {MixerOptions{}};
  const absl::StatusOr<StateLayout> layout = StateLayout::Create(config, compensated);
  GMA_CHECK(layout.ok());
  return *layout;
}

inline SnapshotScope GoldenScope() {
  std::string bytes(32, '\0');
  for (size_t i = 0; i < 32; ++i) bytes[i] = static_cast<char>(i);
  const TempDir dir;
  const std::string path = dir.Write("key", bytes);
  chmod(path.c_str(), 0600);
  const absl::StatusOr<StateKey> key = StateKey::LoadOrMake(path);
  GMA_CHECK(key.ok());
  std::string fingerprint;
  for (int i = 0; i < 32; ++i) fingerprint += "1f";
  return {.key = *key, .fingerprint = fingerprint, .layout = GoldenLayout(), .vocab_size = 50};
}

inline SessionId GoldenId() { return *SessionId::FromHex("00112233445566778899aabbccddeeff"); }

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_SESSION_SEALED_FIXTURE_H_
