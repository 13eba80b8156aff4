// A session outside the server: header, then its image, sealed with AES-256-GCM. The header is in
// the clear and authenticated with the rest. All numbers are little endian.
//
//   offset  bytes
//        0      8  magic "GMASNAP" and a zero byte
//        8      4  format version, kSnapshotVersion
//       12      4  version of the state layout
//       16     32  SHA-256 over the model's config and weights
//       48     32  SHA-256 over the owner's name
//       80      4  1: the layout has compensation terms; else 0
//       84      4  encoding of the rows (row_codec.h)
//       88      8  epoch of the store when it was written; 0 for an exported session
//       96      8  tokens of the session, the pending one included
//      104      8  created at, seconds of Unix time
//      112      8  bytes of a state row in the pool
//      120      4  1: a store's, sealed with the session's id as further associated data; 0:
//      exported 124      4  checkpoints 128      8  bytes of the body 136     12  nonce, random 148
//      ...  sealed: the body (snapshot_body.h), the encoded row, that of each checkpoint end     16
//      tag
//
// Version 1 is read too: an exported session whose header has the nonce at 120, a body of 88 bytes
// and no checkpoints.
#ifndef GMA_SERVER_SESSION_SNAPSHOT_H_
#define GMA_SERVER_SESSION_SNAPSHOT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "model/state/row_bytes.h"
#include "model/state/row_codec.h"
#include "model/state/state_layout.h"
#include "server/session/session_id.h"
#include "server/session/session_image.h"
#include "server/session/state_key.h"

namespace gma {

class Gcm;

inline constexpr uint32_t kSnapshotVersion = 2;
// Limits of what is opened, besides those of the flags that rule what is made.
inline constexpr uint32_t kMaxSnapshotCheckpoints = 1 << 16;
inline constexpr uint64_t kMaxSnapshotCheckpointBytes = uint64_t{1} << 40;  // of their rows
inline constexpr uint64_t kMaxSnapshotBodyBytes = uint64_t{1} << 30;        // of a store's
inline constexpr uint64_t kMaxExportedBodyBytes = 4096;

// What sealed sessions of this server have in common. THREADS: immutable.
struct SnapshotScope {
  StateKey key;
  std::string fingerprint;  // of the model, 64 hex digits
  StateLayout layout;
  int32_t vocab_size;
  uint32_t layout_version = kStateLayoutVersion;
};

// What is said beside an image.
struct SnapshotLabel {
  std::string owner;
  absl::Time created_at;
  std::optional<SessionId> id =
      std::nullopt;    // a store's: it opens as this session only; absent: exported
  uint64_t epoch = 0;  // of the store
  RowEncoding encoding = RowEncoding::kFloat32;  // of the row and the checkpoints' rows
};

// Seals one image, piece by piece: beside the image it holds the body, one encoded row with
// kBfloat16, and what Next returns. THREADS: one at a time.
class SnapshotWriter {
 public:
  // REQUIRES: `scope` outlives the writer; the rows of `image` fit it. An exported image has no
  // sequence, turn key, journal or past.
  SnapshotWriter(const SnapshotScope& scope, const SnapshotLabel& label, SessionImage image);
  ~SnapshotWriter();

  uint64_t bytes() const { return total_; }  // of the whole snapshot
  // The next bytes, at most `most` of the sealed part; empty at the end. REQUIRES: most > 0.
  std::string Next(size_t most);

 private:
  void BeginPart();

  const SnapshotScope& scope_;
  const RowEncoding encoding_;
  const SessionImage image_;
  std::string head_, body_;
  size_t parts_begun_ = 0;          // of body, row and the checkpoints' rows
  RowBytes encoded_;                // the row of the present part
  absl::Span<const uint8_t> part_;  // what is left to seal of it
  uint64_t total_;
  bool ended_ = false;
  std::unique_ptr<Gcm> cipher_;
};

// Opens one snapshot, piece by piece; nothing of it is given out before the tag was checked.
// THREADS: one at a time.
class SnapshotReader {
 public:
  // `id`: of the session that a store's snapshot was found under; absent for an exported one.
  // REQUIRES: `scope` outlives the reader.
  SnapshotReader(const SnapshotScope& scope, std::string_view owner,
                 std::optional<SessionId> id = std::nullopt);
  ~SnapshotReader();

  // Takes the next bytes. Memory is taken as they come, and none for a header that does not fit
  // this server; an exported session never takes more than its row and kMaxExportedBodyBytes.
  // ERRORS: kInvalidArgument for what is no snapshot of this kind, claims more than a limit allows,
  // or is too long; kFailedPrecondition naming what is another: format version, model, layout, row
  // encoding; kPermissionDenied for another owner's. No more may be added then.
  absl::Status Add(std::string_view bytes);
  // ERRORS: kInvalidArgument for a snapshot that is cut, was changed, was sealed with another key
  // or for another session, or contradicts itself.
  absl::StatusOr<SessionImage> Finish() &&;

 private:
  absl::Status TakeHead();
  absl::Status CheckScope() const;
  absl::Status CheckSizes() const;
  void TakeSealed(std::string_view& bytes);
  uint64_t total_bytes() const;  // once the head is there
  absl::StatusOr<SessionImage> TakeImage();

  const SnapshotScope& scope_;
  const std::string owner_;
  const std::optional<SessionId> id_;
  const std::string what_;  // for messages
  std::string head_, tag_;
  // Of the head:
  uint32_t version_ = 0, checkpoints_ = 0;
  RowEncoding encoding_ = RowEncoding::kFloat32;
  uint64_t body_bytes_ = 0;
  // Opened, not yet trusted:
  std::string body_;
  RowBytes encoded_;  // the row that is coming
  std::vector<RowBytes> rows_;
  std::unique_ptr<Gcm> cipher_;
};

// The whole of a snapshot at once.
std::string SealSnapshot(const SnapshotScope& scope, const SnapshotLabel& label,
                         SessionImage image);
// ERRORS: those of SnapshotReader.
absl::StatusOr<SessionImage> OpenSnapshot(const SnapshotScope& scope, std::string_view owner,
                                          const std::optional<SessionId>& id,
                                          std::string_view bytes);

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SNAPSHOT_H_
