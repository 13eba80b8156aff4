#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/engine/recovery.h"

namespace gma {
namespace {

absl::Status Contradiction(std::string_view what) {
  return absl::DataLossError(
      absl::StrCat("the session's journal contradicts itself: ", std::string(what)));
}

// A recorded turn on its way through the session's record.
class Walk {
 public:
  Walk(Session& session, const RecordedTurn& turn) : session_(session), turn_(turn) {
    if (session.pending()) feed_.push_back(*session.pending());
    feed_.insert(feed_.end(), turn.begin.feed.begin(), turn.begin.feed.end());
  }

  // Feeds until the session holds `context` tokens, the pending one included.
  absl::Status To(int64_t context) {
    EnterInputs();
    int64_t left = context - 1 - session_.fed();
    if (left < 0) return Contradiction("a turn leaves fewer tokens than there were");
    if (left == 0 && !answers() && session_.fed() == 0 && !feed_.empty()) {
      session_.SetPending(feed_.front());
      return absl::OkStatus();
    }
    while (left > 0) {
      const auto count = static_cast<size_t>(std::min<int64_t>(left, unfed()));
      if (count == 0) return Contradiction("a turn leaves more tokens than it had");
      Feed(count);
      left -= static_cast<int64_t>(count);
      if (unfed() == 0 && answers() && drawn_ < end().drawn.size()) Draw();
    }
    return absl::OkStatus();
  }

  std::vector<int32_t> TakeFed() { return std::move(fed_); }

 private:
  const TurnEndRecord& end() const { return *turn_.end; }
  bool answers() const { return turn_.begin.kind == TurnKind::kAnswer; }
  int64_t unfed() const { return static_cast<int64_t>(feed_.size() - next_); }

  void Feed(size_t count) {
    const auto tokens = absl::MakeConstSpan(feed_).subspan(next_, count);
    next_ += count;
    fed_.insert(fed_.end(), tokens.begin(), tokens.end());
    session_.Advance(tokens,
                     next_ < feed_.size() ? std::optional<int32_t>(feed_[next_]) : std::nullopt);
  }

  void Draw() {
    const int32_t token = end().drawn[drawn_++];
    session_.Draw(token);
    feed_.assign(1, token);
    next_ = 0;
    EnterInputs();
  }

  void EnterInputs() {
    while (input_ < turn_.inputs.size() &&
           turn_.inputs[input_].drawn == static_cast<int64_t>(drawn_)) {
      const std::vector<int32_t> tokens =
          session_.Interject({}, turn_.inputs[input_++].tokens, unfed());
      feed_.insert(feed_.end(), tokens.begin(), tokens.end());
    }
  }

  Session& session_;
  const RecordedTurn& turn_;
  std::vector<int32_t> feed_, fed_;
  size_t next_ = 0, drawn_ = 0, input_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<RecordedTurn>> TurnsOf(std::vector<JournalRecord> records) {
  std::vector<RecordedTurn> turns;
  for (JournalRecord& record : records) {
    if (std::holds_alternative<TurnRunsRecord>(record)) continue;
    const bool unended = !turns.empty() && !turns.back().end;
    const bool answers = unended && turns.back().begin.kind == TurnKind::kAnswer;
    // An Append of nothing tells that the session was opened.
    const bool open = answers || (unended && !turns.back().begin.feed.empty());
    if (auto* begin = std::get_if<TurnBeginRecord>(&record)) {
      // An Append that was cut by a kill was done when the session was recovered.
      if (answers) return Contradiction("a turn begins in another one");
      turns.push_back({.begin = std::move(*begin), .inputs = {}, .end = std::nullopt});
      continue;
    }
    if (!open) return Contradiction("something is told of no turn");
    if (auto* input = std::get_if<InterjectionRecord>(&record)) {
      turns.back().inputs.push_back(std::move(*input));
    } else {
      turns.back().end = std::get<TurnEndRecord>(std::move(record));
    }
  }
  return turns;
}

bool RunsAgain(const RecordedTurn& turn) {
  if (turn.begin.kind != TurnKind::kAnswer) return false;
  if (!turn.end) return true;
  return !turn.end->failed && !turn.end->drawn.empty();
}

std::shared_ptr<TurnHistory> HistoryOf(const RecordedTurn& turn, int64_t fed, int64_t capacity) {
  const TurnBeginRecord& begin = turn.begin;
  int64_t number = begin.first_sequence;
  auto history = std::make_shared<TurnHistory>(number, capacity);
  const auto add = [&](StreamEvent event) {
    SetSequence(event, number++);
    history->Add(event);
  };
  int64_t context = begin.context_before + static_cast<int64_t>(begin.feed.size());
  if (begin.kind != TurnKind::kAnswer) {
    if (begin.feed.empty() || (turn.end && turn.end->failed)) return nullptr;
    add(AppendedEvent{.context_tokens = context,
                      .tokens = context - begin.context_before,
                      .text = {},
                      .request_id = {}});
    history->End(absl::OkStatus());
    return history;
  }
  if (!turn.end || turn.end->failed) return nullptr;
  const auto inputs = static_cast<int64_t>(turn.inputs.size());
  // It was cut, maybe before its first step.
  if (turn.end->last_sequence == number + inputs + 1) add(StartedEvent{begin.sampling.seed});
  for (const InterjectionRecord& input : turn.inputs) {
    const auto tokens = static_cast<int64_t>(input.tokens.size());
    context += tokens;
    add(AppendedEvent{.context_tokens = context, .tokens = tokens, .text = {}, .request_id = {}});
  }
  add(FinishedEvent{
      .candidate = 0,
      .reason = turn.end->reason,
      .text = {},
      .usage = {.prompt_tokens = std::max<int64_t>(0, turn.end->context_after - 1 - fed),
                .cached_tokens = fed,
                .completion_tokens = 0},
      .timings = {}});
  if (history->last() != turn.end->last_sequence) return nullptr;
  history->End(absl::OkStatus());
  return history;
}

absl::StatusOr<std::vector<int32_t>> LiveThrough(SessionTable& table, Session& session,
                                                 const RecordedTurn& turn, absl::Duration now) {
  const TurnBeginRecord& begin = turn.begin;
  if (begin.context_before != session.context_tokens() ||
      begin.first_sequence != session.last_sequence() + 1) {
    return Contradiction("a turn does not follow the one before it");
  }
  RecordedTurn whole;
  if (!turn.end) {
    // An Append that was written down is done.
    whole = turn;
    whole.end.emplace();
    whole.end->context_after = session.context_tokens() + static_cast<int64_t>(begin.feed.size());
    whole.end->last_sequence = session.last_sequence() + (begin.feed.empty() ? 0 : 1);
  }
  const RecordedTurn& recorded = turn.end ? turn : whole;
  std::vector<int32_t> fed;
  if (recorded.end->context_after != session.context_tokens()) {
    table.BeginTurn(session, begin.kind, begin.new_input);
    Walk walk(session, recorded);
    const absl::Status walked = walk.To(recorded.end->context_after);
    table.EndTurn(session, now);
    GMA_RETURN_IF_ERROR(walked);
    fed = walk.TakeFed();
  }
  session.set_last_sequence(recorded.end->last_sequence);
  // A turn that failed may be tried again.
  session.set_turn_key(recorded.end->failed ? "" : begin.key);
  session.set_last_turn_answers(begin.kind == TurnKind::kAnswer);
  return fed;
}

}  // namespace gma
