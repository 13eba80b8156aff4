#include "server/session/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace gma {
namespace {

bool Legal(SessionPhase from, SessionPhase to) {
  switch (from) {
    case SessionPhase::kIdle:
      return to == SessionPhase::kQueued;
    case SessionPhase::kQueued:
      return to == SessionPhase::kPrefilling || to == SessionPhase::kIdle;
    case SessionPhase::kPrefilling:
      return to == SessionPhase::kDecoding || to == SessionPhase::kIdle;
    case SessionPhase::kDecoding:
      return to == SessionPhase::kIdle;
  }
  return false;
}

// `close` without those of its first tokens that `tail`, the end of the answer, has drawn already.
absl::Span<const int32_t> Undrawn(absl::Span<const int32_t> close,
                                  const std::vector<int32_t>& tail) {
  size_t drawn = std::min(close.size(), tail.size());
  while (drawn > 0 && !std::equal(close.begin(), close.begin() + static_cast<ptrdiff_t>(drawn),
                                  tail.end() - static_cast<ptrdiff_t>(drawn))) {
    --drawn;
  }
  close.remove_prefix(drawn);
  return close;
}

}  // namespace

Session::Session(Owner& owner, SessionId id, uint64_t number, StateRow row, absl::Duration ttl,
                 absl::Duration now, SessionPast past)
    : owner_(owner),
      id_(id),
      number_(number),
      row_(std::move(row)),
      ttl_(ttl),
      opened_at_(now),
      idle_since_(now),
      past_(std::move(past)) {}

std::vector<int32_t> Session::TokensToFeed(absl::Span<const int32_t> close,
                                           absl::Span<const int32_t> input) const {
  close = point_.answer_open ? Undrawn(close, point_.answer_tail) : absl::Span<const int32_t>();
  std::vector<int32_t> feed;
  feed.reserve(1 + close.size() + input.size());
  if (point_.pending) feed.push_back(*point_.pending);
  feed.insert(feed.end(), close.begin(), close.end());
  feed.insert(feed.end(), input.begin(), input.end());
  return feed;
}

std::vector<int32_t> Session::Interject(absl::Span<const int32_t> close,
                                        absl::Span<const int32_t> input, int64_t unfed) {
  GMA_CHECK(phase_ != SessionPhase::kIdle && turn_kind_ == TurnKind::kAnswer && unfed >= 1);
  const bool queued = phase_ == SessionPhase::kQueued;
  // A turn that brings input of its own has drawn nothing before its first step.
  if (!queued || !turn_new_input_) close = Undrawn(close, point_.answer_tail);
  std::vector<int32_t> tokens(close.begin(), close.end());
  tokens.insert(tokens.end(), input.begin(), input.end());
  if (queued) {
    turn_new_input_ = true;  // the first step then clears the tail
  } else {
    point_.answer_tail.clear();
    // To the log it is a turn of its own: what is drawn after it is another answer.
    past_.log().BeginTurn({.fed = point_.fed + unfed, .pending = {}, .answer_tail = {}},
                          /*generates=*/true, /*new_input=*/true);
  }
  return tokens;
}

void Session::BeginTurn(TurnKind kind, bool new_input) {
  SetPhase(SessionPhase::kQueued);
  turn_kind_ = kind;
  if (kind != TurnKind::kReplay) last_turn_answers_ = kind == TurnKind::kAnswer;
  turn_new_input_ = new_input;
}

void Session::Advance(absl::Span<const int32_t> tokens, std::optional<int32_t> next) {
  GMA_CHECK(phase_ != SessionPhase::kIdle && !tokens.empty());
  Touch();
  for (int32_t token : tokens) past_.log().Put(point_.fed++, token, /*drawn=*/false);
  point_.pending = next;
  if (next) past_.log().Put(point_.fed, *next, /*drawn=*/false);
}

void Session::SetPending(int32_t token) {
  GMA_CHECK(phase_ != SessionPhase::kIdle);
  Touch();
  point_.pending = token;
  past_.log().Put(point_.fed, token, /*drawn=*/false);
}

void Session::Draw(int32_t token) {
  GMA_CHECK(phase_ != SessionPhase::kIdle && !point_.pending);
  if (phase_ == SessionPhase::kPrefilling) SetPhase(SessionPhase::kDecoding);
  point_.pending = token;
  point_.AddToTail(token);
  past_.log().Put(point_.fed, token, /*drawn=*/true);
}

void Session::EndTurn(absl::Duration now) {
  SetPhase(SessionPhase::kIdle);
  // Input that entered and was not reached leaves no trace.
  past_.log().Truncate(past_.log().end());
  idle_since_ = now;
}

void Session::SetPhase(SessionPhase phase) {
  GMA_CHECK(Legal(phase_, phase));
  phase_ = phase;
}

void Session::Touch() {
  if (phase_ != SessionPhase::kQueued) return;
  SetPhase(SessionPhase::kPrefilling);
  if (turn_kind_ == TurnKind::kReplay) return;  // the turns it repeats are over
  const bool generates = turn_kind_ == TurnKind::kAnswer;
  past_.log().BeginTurn(point_, generates, turn_new_input_);
  point_.answer_open = generates;
  if (turn_new_input_) point_.answer_tail.clear();
}

void Session::Park(std::shared_ptr<const RowBytes> encoded) {
  GMA_CHECK(phase_ == SessionPhase::kIdle && parked_ == nullptr && encoded != nullptr);
  parked_ = std::move(encoded);
  row_.Release();
}

void Session::Wake(StateRow row) {
  GMA_CHECK(phase_ == SessionPhase::kIdle && !row_.holds() && row.holds());
  row_ = std::move(row);
  parked_.reset();
}

void Session::ContinueFrom(const Session& other) {
  GMA_CHECK(phase_ == SessionPhase::kIdle && other.phase_ == SessionPhase::kIdle);
  point_ = other.point_;
  past_ = other.past_;
}

void Session::StandAt(const SessionPoint& point) {
  GMA_CHECK(phase_ == SessionPhase::kIdle);
  point_ = point;
  past_.log().Restart(point);
}

void Session::Restore(const SessionPoint& point, PastImage past) {
  GMA_CHECK(phase_ == SessionPhase::kIdle);
  point_ = point;
  past_.Restore(std::move(past), point);
  last_turn_answers_ = point.answer_open;
}

void Session::FeedAgainFrom(int64_t fed) {
  GMA_CHECK(phase_ == SessionPhase::kIdle && fed <= point_.fed);
  point_.fed = fed;
  point_.pending.reset();
}

absl::StatusOr<const Checkpoint*> Session::KeepCheckpoint(std::string_view name) {
  GMA_CHECK(phase_ == SessionPhase::kIdle);
  return past_.Keep(name, point_, row_.view());
}

void Session::KeepAutomaticWhenDue() {
  if (past_.WantsAutomatic(point_.fed)) KeepAutomatic();
}

void Session::Rewind(const RewindTarget& target, const RewindPlan& plan) {
  GMA_CHECK(phase_ == SessionPhase::kIdle);
  if (plan.row != nullptr) {
    row_.Write(plan.row->bytes());
  } else {
    row_.Clear();
  }
  past_.Rewound(target, plan);
  point_ = plan.point;
  if (plan.replay.empty()) return;
  point_.fed = plan.row_fed;
  point_.pending.reset();
}

}  // namespace gma
