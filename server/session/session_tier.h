// Where a session's state is.
#ifndef GMA_SERVER_SESSION_SESSION_TIER_H_
#define GMA_SERVER_SESSION_SESSION_TIER_H_

#include <cstdint>

namespace gma {

// A session moves down when the room is needed, one tier after the other, and up to the pool when
// it is used.
enum class SessionTier : uint8_t {
  kPool,    // in a state row
  kMemory,  // its row is in host memory
  kDisk,    // sealed in the store; a SleepingSession is all that is left here
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SESSION_TIER_H_
