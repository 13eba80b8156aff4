// What an application saw of a session, and whether that is what it had to see: exactly what the
// same turns bring on a server that nothing happens to.
#ifndef GMA_TESTS_CHAOS_HISTORY_H_
#define GMA_TESTS_CHAOS_HISTORY_H_

#include <cstdint>
#include <string>
#include <vector>

namespace gma::chaos {

struct SeenEvent {
  static constexpr int32_t kNoToken = -1;

  uint64_t sequence;
  int32_t token;  // kNoToken: Started, Finished, Appended
};

struct SeenTurn {
  std::string what;  // the step of the script, for messages
  std::vector<SeenEvent> events;
  std::string end;  // why the answer ended; of other turns empty
  // Where in an answer that happened which time decides about, in tokens drawn; 0: it did not.
  int64_t cancelled_after = 0, input_after = 0;
  int64_t context_tokens = 0;  // of the session after the turn
  uint64_t last_sequence = 0;  // likewise
};

struct SeenSession {
  std::vector<SeenTurn> turns;
  std::string error;  // what made the application give up; empty: nothing
  std::string state;  // of the session in the end, every byte of its row
};

// What is wrong with one session by itself: events that are missing, came twice or out of order, a
// turn without its end, numbers that the server contradicts. One line each.
std::vector<std::string> FaultsOf(const SeenSession& seen);

// The faults of `seen`, and where it differs from `undisturbed`: turns that got lost, other tokens,
// another context, another end, another state. One line each; empty: it is as it had to be.
std::vector<std::string> Compare(const SeenSession& seen, const SeenSession& undisturbed);

}  // namespace gma::chaos

#endif  // GMA_TESTS_CHAOS_HISTORY_H_
