// One accepted turn: a Generate with its answers, an Append, or a Rewind.
#ifndef GMA_SERVER_ENGINE_REQUEST_H_
#define GMA_SERVER_ENGINE_REQUEST_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "model/sampling/sampler.h"
#include "model/sampling/stop_judge.h"
#include "server/engine/engine.h"
#include "server/engine/token_stream.h"
#include "server/engine/turn_history.h"
#include "server/session/journal_record.h"
#include "server/session/session.h"

namespace gma {

// One answer of a request, or the feeding of an Append or a Rewind. The first one feeds the prompt;
// the others of n start as copies of its state row.
struct Candidate {
  int32_t index = 0;
  uint64_t turn = 0;                         // order of acceptance, unique
  std::unique_ptr<Session> private_session;  // of a request without a session
  Session* session = nullptr;                // the above, or the table's; null once it ended
  bool ended = false;                        // finished, cancelled or failed
  bool decoding = false;                     // the prompt is in; feeds the pending token
  int32_t decode_token = 0;                  // that token, where the decoder reads it
  std::optional<Sampler> sampler;            // Generate only, like the judge
  std::optional<StopJudge> judge;
  int64_t completion_tokens = 0;
  absl::Duration first_token_at, last_token_at;
  int64_t steps_waited = 0;  // as RowView says
};

// Input that entered an answer after so many of its tokens.
struct RecordedInput {
  int64_t drawn;
  std::vector<int32_t> tokens;  // without the token drawn last
};

// Legal transitions:
//   kWaitingForSession -> kQueued   the turn before it ended
//   kQueued -> kRunning             its first step
//   any -> kEnded                   finished, failed, cancelled; answered, and holds nothing
enum class RequestState { kWaitingForSession, kQueued, kRunning, kEnded };

// THREADS: engine thread only.
struct Request {
  bool is_private() const { return !session_id.has_value(); }

  // Its turn is active, or it is a private one that has its rows.
  bool begun() const {
    return (state == RequestState::kQueued || state == RequestState::kRunning) &&
           !candidates.empty();
  }

  // Nobody waits for what has not begun.
  bool abandoned() const {
    if (generates) return stream != nullptr && stream->cancelled();
    return caller_gone != nullptr && caller_gone();
  }

  // Nobody reads the turn, or its reader has just gone.
  bool unread() const { return stream == nullptr || stream->cancelled(); }

  // Its turn is run again and has not got yet to where its reader is, for whom other things come
  // after that.
  bool catches_up() const { return recovered && stream != nullptr && delivered > history->last(); }

  bool generates = false;  // a Generate; otherwise an Append or a Rewind
  RequestState state = RequestState::kQueued;
  std::string owner;
  std::optional<SessionId> session_id;
  Session* session = nullptr;  // of the table, while this is its active turn
  InputTokens input;           // emptied when the turn begins
  absl::Duration deadline;     // of its caller; of a detached turn, when it ends
  absl::Duration accepted_at, scheduled_at;
  int32_t priority = 0;
  bool wait_if_busy = false;
  std::string request_key;       // as in GenerateSpec
  std::optional<int64_t> after;  // likewise

  // Generate:
  std::shared_ptr<TokenStream> stream;  // its reader's; null while there is none
  // On a session, from the beginning of the turn: its events, and the number up to which the reader
  // has them. That can be larger than the last one where a turn is run again after a restart.
  std::shared_ptr<TurnHistory> history;
  int64_t delivered = 0;
  int64_t events = 0;  // of a private request: how many it has had
  // The reader is gone: the turn is not scheduled, and ends at `deadline` unless it is resumed.
  bool detached = false;
  // Of a turn that is run again after a restart: its reader may know more of it than the session
  // does; without one it runs until its last event has this number; and this input enters it on
  // the way, by tokens drawn.
  bool recovered = false;
  int64_t unread_until = 0;
  std::deque<RecordedInput> recorded;
  bool replays = false;                       // feeds what the session has lived through
  std::optional<TurnEndRecord> recorded_end;  // how that turn ended, if it did
  // Of that turn: how it ended this time.
  absl::AnyInvocable<void(const absl::Status&)> when_over;

  // The turn is being written down and must not start yet; the number of that write.
  uint64_t held_by = 0;
  bool entered_turn = false;   // EnterTurn was called
  bool journaled = false;      // its beginning is in the journal, so its end has to be
  bool left = false;           // unfinished, to be run again by who has the session next
  std::vector<int32_t> drawn;  // all tokens drawn, for the journal
  SamplingParams sampling;
  StopParams stop;
  int32_t n = 1;
  // Append and Rewind:
  EngineCallback<SessionSnapshotInfo> done;
  std::function<bool()> caller_gone;   // null: never
  std::optional<RewindTarget> rewind;  // of a Rewind

  std::vector<int32_t> feed;  // everything to feed; without an answer, its last token stays pending
  size_t next = 0;            // of `feed`: fed so far
  // Where prefill stops to keep the state for others, ascending; and how many tokens the longest
  // beginning has that was found or kept.
  std::deque<size_t> keep_at;
  size_t kept = 0;
  size_t feed_end() const { return feed.size() - (generates || feed.empty() ? 0 : 1); }
  // Input that enters an answer makes a new `feed`, the token drawn last first.
  bool feeds_drawn = false;
  int64_t prompt_before = 0;  // input tokens fed before this feed
  int64_t prompt_tokens() const {
    return prompt_before + static_cast<int64_t>(next) - (feeds_drawn && next > 0 ? 1 : 0);
  }
  std::vector<AppendedEvent> entered;  // input that came before the first step; told after Started
  int64_t cached_tokens = 0;           // in the state before
  int64_t context_before = 0;          // of the session
  std::vector<Candidate> candidates;
  int32_t live = 0;  // candidates that have not ended
};

// What an Append is before it is admitted, without `done`; empties the spec's owner and input.
std::unique_ptr<Request> NewAppend(AppendSpec& spec, absl::Duration accepted_at);

// One row of the step that is being run.
struct StepPart {
  Request* request;
  Candidate* candidate;
  int32_t tokens = 0;
  bool wants_logits = false;
};

// Turns of a session that has an active one.
struct SessionTurns {
  Request* active;
  std::deque<Request*> waiting;
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_REQUEST_H_
