// Everything of one owner: who opened a session, as the server authenticated it.
#ifndef GMA_SERVER_SESSION_OWNER_H_
#define GMA_SERVER_SESSION_OWNER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "server/session/session.h"
#include "server/session/session_id.h"

namespace gma {

// How a session ended: its id is remembered for a while, so that a later use hears why.
enum class SessionEnd { kClosed, kExpired, kLost, kMoved };

struct EndedSession {
  SessionId id;
  SessionEnd end;
  absl::Duration ended_at, ttl;
};

// What is left in memory of a session of tier kDisk.
struct SleepingSession {
  uint64_t number;  // as Session::number
  absl::Duration opened_at, idle_since, ttl;
  int64_t context_tokens, last_sequence;
  uint64_t epoch;  // that it was written under
  int64_t bytes;   // in the store
};

// Everything of one owner. Owners are the operator's keys: few, and kept for the server's life.
struct Owner {
  std::string name;
  uint32_t number;           // small and unique, for the scheduler
  int32_t held = 0;          // sessions in any tier, private ones included
  int64_t stored_bytes = 0;  // of its sessions in the store, as far as they are known here
  std::map<SessionId, std::unique_ptr<Session>> sessions;  // in pool and memory
  std::map<SessionId, SleepingSession> sleeping;           // on disk
  std::deque<EndedSession> ended;  // oldest first, at most SessionTable::kRememberedEnds
};

// A session that has just expired.
struct ExpiredSession {
  const Owner& owner;
  SessionId id;
  uint64_t number;
  SessionTier tier;
  int64_t context_tokens;
  absl::Duration idle;
  bool stored;  // the store has something of it
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_OWNER_H_
