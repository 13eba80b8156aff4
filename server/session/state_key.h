// The secret that sessions outside the server are sealed with.
#ifndef GMA_SERVER_SESSION_STATE_KEY_H_
#define GMA_SERVER_SESSION_STATE_KEY_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace gma {

// 32 secret bytes. A value. THREADS: immutable.
class StateKey {
 public:
  // Of this process alone: what it seals, no other can open.
  static StateKey Random();
  // Reads the key, or makes the file, with mode 0600, when there is none.
  // ERRORS: kInvalidArgument, naming the file, for one of another size or that others may read;
  // kInternal with the system's reason.
  static absl::StatusOr<StateKey> LoadOrMake(const std::string& path);

  const std::array<uint8_t, 32>& bytes() const { return bytes_; }
  bool kept() const { return kept_; }  // in a file

 private:
  std::array<uint8_t, 32> bytes_{};
  bool kept_ = false;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_STATE_KEY_H_
