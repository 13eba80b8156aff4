// A session as a value that can be kept anywhere: all of it but its id and its owner.
#ifndef GMA_SERVER_SESSION_SESSION_IMAGE_H_
#define GMA_SERVER_SESSION_SESSION_IMAGE_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "model/state/row_bytes.h"
#include "server/session/session_past.h"
#include "server/session/session_point.h"

namespace gma {

// THREADS: one at a time, any; the rows of checkpoints are shared and never change.
struct SessionImage {
  absl::Duration ttl;  // whole seconds
  SessionPoint point;
  RowBytes row;                    // as in the pool
  int64_t sequence = 0;            // of the session's last event
  std::string turn_key;            // of its last turn, at most kMaxTurnKeyBytes; empty: it had none
  bool last_turn_answers = false;  // as Session's
  // Journal records of the session that are in this image: the next one has this number.
  int64_t journaled = 0;
  // The events of its last turn, as the engine writes them, for readers that come back; empty: none
  // are kept.
  std::string last_turn = {};
  PastImage past;  // for SessionPast::Restore; by default nothing is known of it
};

inline constexpr size_t kMaxTurnKeyBytes = 64;

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SESSION_IMAGE_H_
