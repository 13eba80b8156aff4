// All of a session's image but its rows, as bytes: the first part of what a snapshot seals. The
// fields of SessionImage in their order (byte_codec.h): ttl in seconds, point, sequence, turn key,
// last turn answers, journaled, the token log as one string, then the checkpoints' kinds, names,
// points and shared tokens, and the last number given to one.
#ifndef GMA_SERVER_SESSION_SNAPSHOT_BODY_H_
#define GMA_SERVER_SESSION_SNAPSHOT_BODY_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/session/session_image.h"

namespace gma {

inline constexpr size_t kSnapshotBodyBytesV1 = 88;

std::string WriteSnapshotBody(const SessionImage& image);
// The image without its rows; those of checkpoints are null. Whoever holds the key wrote `bytes`;
// what does not fit together is a mistake all the same.
// ERRORS: kInvalidArgument.
absl::StatusOr<SessionImage> ReadSnapshotBody(std::string_view bytes, int32_t vocab_size);
// Of format version 1. REQUIRES: bytes.size() == kSnapshotBodyBytesV1. ERRORS: as above.
absl::StatusOr<SessionImage> ReadSnapshotBodyV1(std::string_view bytes, int32_t vocab_size);

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SNAPSHOT_BODY_H_
