// What a session is doing, as its owner sees it.
#ifndef GMA_SERVER_SESSION_SESSION_PHASE_H_
#define GMA_SERVER_SESSION_SESSION_PHASE_H_

namespace gma {

// Legal transitions:
//   kIdle -> kQueued                         a turn begins
//   kQueued -> kPrefilling                   its first step
//   kPrefilling -> kDecoding                 its first token was drawn
//   kQueued, kPrefilling, kDecoding -> kIdle the turn ended, whatever way
enum class SessionPhase { kIdle, kQueued, kPrefilling, kDecoding };

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SESSION_PHASE_H_
