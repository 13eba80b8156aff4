// What a session has been through, rebuilt from what its client saw: a second implementation of the
// session's bookkeeping, in terms of tokens alone.
//
// A turn that ended in an error before its first token may have fed any part of its input. The
// client cannot know how much, so a session has a set of possible histories; what it answers next
// must follow from one of them, and usually leaves one.
#ifndef GMA_TESTS_SIM_HISTORY_H_
#define GMA_TESTS_SIM_HISTORY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "model/sampling/sampling_params.h"
#include "server/engine/token_stream.h"
#include "tests/support/fake_decoder.h"

namespace gma::testing {

struct History {
  FakeState state;
  std::optional<int32_t> pending;
  bool answer_open = false;
  std::vector<int32_t> answer;  // tokens drawn since the last input

  // What a turn with this input feeds.
  std::vector<int32_t> FeedOf(const std::vector<int32_t>& close,
                              const std::vector<int32_t>& input) const;
};

// One turn as its client saw it, from request to end.
struct SeenTurn {
  bool generates = true;
  std::vector<int32_t> close, input;
  SamplingParams sampling;
  StopParams stop;

  std::vector<int32_t> tokens;  // drawn
  std::string text;
  std::optional<FinishedEvent> finished;
  std::optional<absl::Status> status;
  std::optional<int64_t> context_tokens;  // answered by an Append
};

// The histories that `before` can have become by a turn that ended like this; none if what was seen
// contradicts it. REQUIRES: turn.status is set, and the session still exists.
std::vector<History> After(const History& before, const SeenTurn& turn);

}  // namespace gma::testing

#endif  // GMA_TESTS_SIM_HISTORY_H_
