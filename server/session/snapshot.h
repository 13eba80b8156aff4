// A session outside the server: header, then where the session stood and its row, sealed with
// AES-256-GCM. The header is in the clear and authenticated with the rest. All numbers are little
// endian.
//
//   offset  bytes
//        0      8  magic "GMASNAP" and a zero byte
//        8      4  format version, kSnapshotVersion
//       12      4  version of the state layout
//       16     32  SHA-256 over the model's config and weights
//       48     32  SHA-256 over the owner's name
//       80      4  1: the layout has compensation terms; else 0
//       84      4  zero
//       88      8  epoch: how often the session has changed hands between replicas; 0 on a lone one
//       96      8  tokens of the session, the pending one included
//      104      8  created at, seconds of Unix time
//      112      8  bytes of the state row
//      120     12  nonce, random
//      132    ...  sealed: ttl in seconds (8), tokens fed (8), pending token or -1 (4), answer open
//      (2),
//                  tokens of the answer's tail (2), that tail (16 x 4), the state row
//      end     16  tag
#ifndef GMA_SERVER_SESSION_SNAPSHOT_H_
#define GMA_SERVER_SESSION_SNAPSHOT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/state/state_layout.h"
#include "server/session/session_point.h"

namespace gma {

inline constexpr uint32_t kSnapshotVersion = 1;

// All of a session but its id and its past.
struct SessionImage {
  absl::Duration ttl;
  SessionPoint point;
  std::vector<uint8_t> row;
};

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

// What snapshots of this server have in common. THREADS: immutable.
struct SnapshotScope {
  StateKey key;
  std::string fingerprint;  // of the model, 64 hex digits
  bool compensated;
  size_t row_bytes;
  int32_t vocab_size;
  uint32_t layout_version = kStateLayoutVersion;

  size_t snapshot_bytes() const;
};

// Seals one image, piece by piece. THREADS: one at a time.
class SnapshotWriter {
 public:
  // REQUIRES: `scope` outlives the writer; the row of `image` fits it.
  SnapshotWriter(const SnapshotScope& scope, std::string_view owner, SessionImage image,
                 int64_t created_at);
  ~SnapshotWriter();

  // The next bytes, at most `most` of the sealed part; empty at the end.
  std::string Next(size_t most);

 private:
  struct Cipher;
  const SessionImage image_;
  std::string head_, body_;  // in the clear; to be sealed before the row
  size_t sealed_ = 0;        // of body and row
  bool began_ = false, ended_ = false;
  std::unique_ptr<Cipher> cipher_;
};

// Opens one snapshot, piece by piece; nothing of it is given out before the tag was checked.
// THREADS: one at a time.
class SnapshotReader {
 public:
  // REQUIRES: `scope` outlives the reader.
  SnapshotReader(const SnapshotScope& scope, std::string_view owner);
  ~SnapshotReader();

  // Takes the next bytes. The row is allocated when the header was found to fit this server.
  // ERRORS: kInvalidArgument for what is no snapshot, or is too long; kFailedPrecondition naming
  // what is another: format version, model, layout; kPermissionDenied for another owner's. No more
  // may be added then.
  absl::Status Add(std::string_view bytes);
  // ERRORS: kInvalidArgument for a snapshot that is cut, was changed, or was sealed with another
  // key.
  absl::StatusOr<SessionImage> Finish() &&;

 private:
  absl::Status CheckHead() const;
  absl::StatusOr<SessionImage> TakeBody();

  struct Cipher;
  const SnapshotScope& scope_;
  const std::string owner_;
  std::string head_, tag_;
  std::vector<uint8_t> body_;  // opened, not yet trusted
  size_t opened_ = 0;          // of it
  std::unique_ptr<Cipher> cipher_;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SNAPSHOT_H_
