#include "server/session/session.h"

#include <algorithm>
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

}  // namespace

Session::Session(Owner& owner, SessionId id, uint64_t number, StateRow row, absl::Duration ttl,
                 absl::Duration now)
    : owner_(owner),
      id_(id),
      number_(number),
      row_(std::move(row)),
      ttl_(ttl),
      opened_at_(now),
      idle_since_(now) {}

std::vector<int32_t> Session::TokensToFeed(absl::Span<const int32_t> close,
                                           absl::Span<const int32_t> input) const {
  size_t drawn = 0;  // tokens of `close` that the answer ends with
  if (answer_open_) {
    drawn = std::min(close.size(), answer_tail_.size());
    while (drawn > 0 && !std::equal(close.begin(), close.begin() + static_cast<ptrdiff_t>(drawn),
                                    answer_tail_.end() - static_cast<ptrdiff_t>(drawn))) {
      --drawn;
    }
    close.remove_prefix(drawn);
  } else {
    close = {};
  }
  std::vector<int32_t> feed;
  feed.reserve(1 + close.size() + input.size());
  if (pending_) feed.push_back(*pending_);
  feed.insert(feed.end(), close.begin(), close.end());
  feed.insert(feed.end(), input.begin(), input.end());
  return feed;
}

void Session::BeginTurn(bool generates, bool new_input) {
  SetPhase(SessionPhase::kQueued);
  turn_generates_ = generates;
  turn_new_input_ = new_input;
}

void Session::Advance(int64_t count, std::optional<int32_t> next) {
  GMA_CHECK(phase_ != SessionPhase::kIdle && count > 0);
  Touch();
  fed_ += count;
  pending_ = next;
}

void Session::SetPending(int32_t token) {
  GMA_CHECK(phase_ != SessionPhase::kIdle);
  Touch();
  pending_ = token;
}

void Session::Draw(int32_t token) {
  GMA_CHECK(phase_ != SessionPhase::kIdle && !pending_);
  if (phase_ == SessionPhase::kPrefilling) SetPhase(SessionPhase::kDecoding);
  pending_ = token;
  if (answer_tail_.size() == kAnswerTail) answer_tail_.erase(answer_tail_.begin());
  answer_tail_.push_back(token);
}

void Session::EndTurn(absl::Duration now) {
  SetPhase(SessionPhase::kIdle);
  idle_since_ = now;
}

void Session::SetPhase(SessionPhase phase) {
  GMA_CHECK(Legal(phase_, phase));
  phase_ = phase;
}

void Session::Touch() {
  if (phase_ != SessionPhase::kQueued) return;
  SetPhase(SessionPhase::kPrefilling);
  answer_open_ = turn_generates_;
  if (turn_new_input_) answer_tail_.clear();
}

}  // namespace gma
