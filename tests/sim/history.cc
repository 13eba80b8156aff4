#include "tests/sim/history.h"

#include <algorithm>
#include <utility>

#include "absl/types/span.h"
#include "tests/support/oracle.h"

namespace gma::testing {
namespace {

// Whether the turn was turned away before it could touch the session.
bool NeverBegan(const absl::Status& status) {
  return status.code() == absl::StatusCode::kFailedPrecondition ||
         status.code() == absl::StatusCode::kResourceExhausted ||
         status.code() == absl::StatusCode::kNotFound;
}

constexpr size_t kTail = 16;

// `before` after the first `count` tokens of `feed`, with the next one pending.
History CutAt(const History& before, const std::vector<int32_t>& feed, size_t count,
              const SeenTurn& turn) {
  if (count == 0) return before;
  History after = before;
  after.answer_open = turn.generates;
  if (!turn.input.empty()) after.answer.clear();
  for (size_t i = 0; i < feed.size() && i <= count; ++i) {
    if (i > 0 || !before.pending) after.Leave(after.state, feed[i]);
    if (i < count) after.state.Feed(feed[i]);
  }
  after.pending = count < feed.size() ? std::optional<int32_t>(feed[count]) : std::nullopt;
  return after;
}

std::vector<History> CutAnywhere(const History& before, const std::vector<int32_t>& feed,
                                 const SeenTurn& turn) {
  std::vector<History> possible;
  for (size_t count = 0; count < feed.size(); ++count) {
    possible.push_back(CutAt(before, feed, count, turn));
  }
  return possible;
}

std::vector<History> AfterAppend(const History& before, const std::vector<int32_t>& feed,
                                 const SeenTurn& turn) {
  if (!turn.status->ok()) return CutAnywhere(before, feed, turn);
  const size_t fed = feed.size() - 1;
  History after = CutAt(before, feed, fed, turn);
  after.pending = feed.back();
  after.answer_open = false;
  after.answer.clear();
  if (fed == 0) after.Leave(after.state, feed.back());
  if (turn.context_tokens != after.state.position + 1) return {};
  return {after};
}

// An answer that ended before its first token.
std::vector<History> AfterNothingDrawn(const History& before, const std::vector<int32_t>& feed,
                                       const SeenTurn& turn) {
  if (turn.status->code() == absl::StatusCode::kInternal) {
    return {CutAt(before, feed, feed.size(), turn)};
  }
  if (!turn.finished) return CutAnywhere(before, feed, turn);
  if (turn.finished->reason != FinishReason::kCancelled) return {};
  const size_t fed = static_cast<size_t>(turn.finished->usage.prompt_tokens);
  if (fed >= feed.size()) return {};
  if (fed > 0 && turn.finished->usage.cached_tokens != before.state.position) return {};
  return {CutAt(before, feed, fed, turn)};
}

std::vector<History> AfterAnswer(const History& before, const std::vector<int32_t>& feed,
                                 const SeenTurn& turn) {
  Oracle oracle(before.state, feed, turn.sampling, turn.stop);
  std::string text, all_text;
  FinishReason reason = FinishReason::kNone;
  for (int32_t token : turn.tokens) {
    if (reason != FinishReason::kNone) return {};  // it went on after its end
    const Oracle::Drawn drawn = oracle.Next();
    if (drawn.token != token) return {};
    text += drawn.text;
    all_text += FakeTokenText(token);
    reason = drawn.reason;
  }
  const bool cut = reason == FinishReason::kNone;
  if (turn.finished) {
    if (turn.finished->reason != (cut ? FinishReason::kCancelled : reason)) return {};
    // What was held back for a stop string comes out when the answer is cut.
    if (turn.text != (cut ? all_text : text)) return {};
    const RequestUsage& usage = turn.finished->usage;
    if (usage.cached_tokens != before.state.position) return {};
    if (usage.prompt_tokens != static_cast<int64_t>(feed.size())) return {};
    if (usage.completion_tokens != static_cast<int64_t>(turn.tokens.size())) return {};
  } else if (!cut || turn.status->ok()) {
    return {};  // an answer that reached its end says so
  }
  History after = CutAt(before, feed, feed.size(), turn);
  for (size_t i = 0; i < turn.tokens.size(); ++i) {
    if (i > 0) after.state.Feed(turn.tokens[i - 1]);
    if (after.answer.size() == kTail) after.answer.erase(after.answer.begin());
    after.answer.push_back(turn.tokens[i]);
    after.Leave(after.state, turn.tokens[i]);
  }
  if (after.state.hash != oracle.state().hash) return {};
  after.pending = turn.tokens.back();
  if (turn.status->code() == absl::StatusCode::kInternal) {
    after.state.Feed(*after.pending);  // it was fed, and the logits after it were not finite
    after.pending.reset();
  }
  return {after};
}

std::vector<History> AfterRewind(const History& before, const SeenTurn& turn) {
  const auto* name = std::get_if<std::string>(&*turn.rewind);
  const bool there = name == nullptr ? std::get<int64_t>(*turn.rewind) <= before.context()
                                     : before.saved.contains(*name);
  const absl::StatusCode code = turn.status->code();
  // The session is there, so what was not found is the checkpoint.
  const bool refused =
      name == nullptr ? code == absl::StatusCode::kOutOfRange : code == absl::StatusCode::kNotFound;
  if (refused && there && (name != nullptr || turn.remembers_all)) return {};
  if (!turn.status->ok()) return {before};
  if (!there) return {};
  History after;
  if (name == nullptr) {
    after = before.Rewound(std::get<int64_t>(*turn.rewind));
  } else {
    after = *before.saved.at(*name);
    after.saved = before.saved;
  }
  return after.context() == turn.context_tokens ? std::vector<History>{after}
                                                : std::vector<History>();
}

std::vector<History> AfterCheckpoint(const History& before, const SeenTurn& turn) {
  if (!turn.status->ok()) return {before};
  if (before.context() != turn.context_tokens) return {};
  History after = before;
  History kept = before;
  kept.saved.clear();
  after.saved[*turn.checkpoint] = std::make_shared<History>(std::move(kept));
  return {after};
}

}  // namespace

std::vector<int32_t> History::FeedOf(const std::vector<int32_t>& close,
                                     const std::vector<int32_t>& input) const {
  std::vector<int32_t> feed;
  if (pending) feed.push_back(*pending);
  if (answer_open) {
    size_t drawn = std::min({close.size(), answer.size(), kTail});
    while (drawn > 0 &&
           !std::equal(answer.end() - static_cast<ptrdiff_t>(drawn), answer.end(), close.begin())) {
      --drawn;
    }
    feed.insert(feed.end(), close.begin() + static_cast<ptrdiff_t>(drawn), close.end());
  }
  feed.insert(feed.end(), input.begin(), input.end());
  return feed;
}

void History::Leave(const FakeState& at, int32_t token) {
  const int64_t context = at.position + 1;
  trail = std::make_shared<TrailEntry>(TrailEntry{.before = trail,
                                                  .context = context,
                                                  .state = at,
                                                  .token = token,
                                                  .answer_open = answer_open,
                                                  .answer = answer});
}

History History::Rewound(int64_t context) const {
  const TrailEntry* entry = trail.get();
  std::shared_ptr<const TrailEntry> found = trail;
  while (entry != nullptr && entry->context > context) {
    found = entry->before;
    entry = found.get();
  }
  History history;
  history.saved = saved;
  if (entry == nullptr) return history;
  history.state = entry->state;
  history.pending = entry->token;
  history.answer_open = entry->answer_open;
  history.answer = entry->answer;
  history.trail = std::move(found);
  return history;
}

std::vector<History> After(const History& before, const SeenTurn& turn) {
  if (turn.rewind) return AfterRewind(before, turn);
  if (turn.checkpoint) return AfterCheckpoint(before, turn);
  if (turn.moved) {
    History after = before;
    after.saved.clear();
    return {after};
  }
  if (NeverBegan(*turn.status)) return {before};
  const std::vector<int32_t> feed = before.FeedOf(turn.close, turn.input);
  if (turn.status->code() == absl::StatusCode::kInvalidArgument) {
    return feed.empty() ? std::vector<History>{before} : std::vector<History>();
  }
  if (feed.empty()) {
    // Nothing to go on from, and it ended before that was seen.
    return turn.tokens.empty() ? std::vector<History>{before} : std::vector<History>();
  }
  if (!turn.generates) return AfterAppend(before, feed, turn);
  if (turn.tokens.empty()) return AfterNothingDrawn(before, feed, turn);
  return AfterAnswer(before, feed, turn);
}

}  // namespace gma::testing
