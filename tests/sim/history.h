// What a session has been through, rebuilt from what its client saw: a second implementation of the
// session's bookkeeping, in terms of tokens alone.
//
// A turn that ended in an error before its first token may have fed any part of its input. The
// client cannot know how much, so a session has a set of possible histories; what it answers next
// must follow from one of them, and usually leaves one.
#ifndef GMA_TESTS_SIM_HISTORY_H_
#define GMA_TESTS_SIM_HISTORY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "model/sampling/sampling_params.h"
#include "server/engine/token_stream.h"
#include "server/session/session_past.h"
#include "tests/support/fake_decoder.h"

namespace gma::testing {

struct History;

// How it was when the session's tokens ended with this one. Shared by histories that begin alike.
struct TrailEntry {
  std::shared_ptr<const TrailEntry> before;
  int64_t context;  // tokens, this one included
  FakeState state;  // of those before it
  int32_t token;
  bool answer_open;
  std::vector<int32_t> answer;
};

struct History {
  FakeState state;
  std::optional<int32_t> pending;
  bool answer_open = false;
  std::vector<int32_t> answer;  // tokens drawn since the last input, the last 16
  std::shared_ptr<const TrailEntry> trail;
  std::map<std::string, std::shared_ptr<const History>> saved;  // named checkpoints

  int64_t context() const { return state.position + (pending ? 1 : 0); }
  // Adds to the trail: `at` has fed what is before `token`.
  void Leave(const FakeState& at, int32_t token);
  // The history that ended when the session held `context` tokens.
  History Rewound(int64_t context) const;
  // What a turn with this input feeds.
  std::vector<int32_t> FeedOf(const std::vector<int32_t>& close,
                              const std::vector<int32_t>& input) const;
};

// One turn as its client saw it, from request to end.
struct SeenTurn {
  bool generates = true;
  std::optional<RewindTarget> rewind;     // instead of a turn
  std::optional<std::string> checkpoint;  // likewise
  bool moved = false;                     // likewise: out and in again, without its checkpoints
  bool remembers_all = false;             // no position may be out of a Rewind's reach
  std::vector<int32_t> close, input;
  SamplingParams sampling;
  StopParams stop;

  std::vector<int32_t> tokens;  // drawn
  std::string text;
  std::optional<FinishedEvent> finished;
  std::optional<absl::Status> status;
  std::optional<int64_t> context_tokens;  // answered by a call
};

// The histories that `before` can have become by a turn that ended like this; none if what was seen
// contradicts it. REQUIRES: turn.status is set, and the session still exists.
std::vector<History> After(const History& before, const SeenTurn& turn);

}  // namespace gma::testing

#endif  // GMA_TESTS_SIM_HISTORY_H_
