#include "server/session/token_log.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace gma {
namespace {

constexpr int64_t kTail = static_cast<int64_t>(SessionPoint::kAnswerTail);

bool AllTokens(const std::vector<int32_t>& tokens, int32_t vocab_size) {
  return std::all_of(tokens.begin(), tokens.end(),
                     [&](int32_t token) { return token >= 0 && token < vocab_size; });
}

}  // namespace

int64_t TokenLog::begin() const {
  return starts_at_first_ ? first_ : std::min(first_ + kTail, end());
}

void TokenLog::BeginTurn(const SessionPoint& before, bool generates, bool new_input) {
  if (limit_ == 0) return;
  Turn turn = {.start = before.context_tokens(),
               .generates = generates,
               .new_input = new_input,
               .drawn_from = kNothing,
               .tail_before = before.answer_tail};
  // A turn that added nothing leaves no trace.
  if (!turns_.empty() && turns_.back().start == turn.start) turns_.pop_back();
  turns_.push_back(std::move(turn));
}

void TokenLog::Put(int64_t position, int32_t token, bool drawn) {
  if (limit_ == 0) return;
  GMA_CHECK(0 <= position && position <= end());
  if (position < first_) return;
  if (position < end()) {
    GMA_CHECK(at(position) == token);
    return;
  }
  tokens_.push_back(token);
  if (drawn) {
    int64_t& from = turns_.back().drawn_from;
    from = std::min(from, position);
  }
  DropOldest();
}

void TokenLog::DropOldest() {
  while (static_cast<int64_t>(tokens_.size()) > limit_ + kTail) {
    tokens_.pop_front();
    ++first_;
    starts_at_first_ = false;
  }
  while (turns_.size() > 1 && turns_[1].start <= begin()) turns_.pop_front();
}

std::vector<int32_t> TokenLog::Tokens(int64_t from, int64_t to) const {
  GMA_CHECK(first_ <= from && from <= to && to <= end());
  return {tokens_.begin() + (from - first_), tokens_.begin() + (to - first_)};
}

SessionPoint TokenLog::PointAt(int64_t context) const {
  GMA_CHECK(begin() < context && context <= end());
  auto turn = turns_.end();
  while (turn != turns_.begin() && std::prev(turn)->start >= context) --turn;
  GMA_CHECK(turn != turns_.begin());
  --turn;
  SessionPoint point = {.fed = context - 1,
                        .pending = at(context - 1),
                        .answer_open = turn->generates,
                        .answer_tail = {}};
  if (!turn->new_input) point.answer_tail = turn->tail_before;
  for (int64_t drawn = std::max({turn->drawn_from, context - kTail, first_}); drawn < context;
       ++drawn) {
    point.AddToTail(at(drawn));
  }
  return point;
}

void TokenLog::Truncate(int64_t end) {
  GMA_CHECK(first_ <= end && end <= this->end());
  tokens_.shrink(static_cast<size_t>(end - first_));
  while (!turns_.empty() && turns_.back().start >= end) turns_.pop_back();
}

void TokenLog::Restart(const SessionPoint& point) {
  if (limit_ == 0) return;
  tokens_.clear();
  turns_.clear();
  first_ = point.fed;
  starts_at_first_ = true;
  // The turn that led here, without the tokens it drew.
  turns_.push_back({.start = point.fed - 1,
                    .generates = point.answer_open,
                    .new_input = false,
                    .drawn_from = kNothing,
                    .tail_before = point.answer_tail});
  if (point.pending) tokens_.push_back(*point.pending);
}

void TokenLog::SetLimit(int64_t limit) {
  GMA_CHECK(remembers() && 0 <= limit && limit <= kMaxTokens);
  if (limit == 0) {
    *this = TokenLog(0);
    return;
  }
  limit_ = limit;
  DropOldest();
}

std::string TokenLog::Serialize() const {
  ByteWriter bytes;
  bytes(limit_, first_, starts_at_first_, std::vector<int32_t>(tokens_.begin(), tokens_.end()),
        std::vector<Turn>(turns_.begin(), turns_.end()));
  return std::move(bytes).Take();
}

absl::StatusOr<TokenLog> TokenLog::Parse(std::string_view bytes, int32_t vocab_size,
                                         int64_t context) {
  TokenLog log;
  std::vector<int32_t> tokens;
  std::vector<Turn> turns;
  ByteReader reader(bytes);
  reader(log.limit_, log.first_, log.starts_at_first_, tokens, turns);
  const bool whole = reader.AtEnd() && AllTokens(tokens, vocab_size);
  log.tokens_.assign(std::move(tokens));
  log.turns_.assign(std::move(turns));
  if (whole && log.Sound(vocab_size, context)) return log;
  return absl::InvalidArgumentError("the session's token log contradicts itself");
}

bool TokenLog::Sound(int32_t vocab_size, int64_t context) const {
  if (limit_ == 0) return first_ == 0 && tokens_.empty() && turns_.empty();
  const auto size = static_cast<int64_t>(tokens_.size());
  if (limit_ < 0 || limit_ > kMaxTokens || size > limit_ + kTail) return false;
  if (first_ < 0 || first_ > context || context - first_ != size) return false;
  // Any position that can be fed again belongs to a turn.
  if (begin() < end() && (turns_.empty() || turns_.front().start > begin())) return false;
  int64_t last = -2;  // the turn before a log that was restarted at 0 tokens starts at -1
  for (const Turn& turn : turns_) {
    if (turn.start <= last || turn.start > end() || turn.drawn_from < 0) return false;
    if (turn.tail_before.size() > SessionPoint::kAnswerTail) return false;
    if (!AllTokens(turn.tail_before, vocab_size)) return false;
    last = turn.start;
  }
  return true;
}

}  // namespace gma
