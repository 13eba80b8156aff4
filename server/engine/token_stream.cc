#include "server/engine/token_stream.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace gma {

TokenStream::TokenStream(size_t capacity, int64_t initial_credit, absl::AnyInvocable<void()> notify,
                         absl::AnyInvocable<void()> wake)
    : capacity_(capacity),
      notify_(std::move(notify)),
      wake_(std::move(wake)),
      credit_(initial_credit) {}

std::optional<absl::Status> TokenStream::TakeAll(std::vector<StreamEvent>& events) {
  events.clear();
  std::optional<absl::Status> closed;
  bool wake = false;
  {
    MutexLock lock(&mutex_);
    events.swap(events_);
    if (token_events_ > 0) wake = std::exchange(room_wanted_, false);
    token_events_ = 0;
    closed = closed_;
  }
  if (wake && wake_) wake_();
  return closed;
}

void TokenStream::AddCredit(int64_t tokens, int64_t cap) {
  bool wake = false;
  {
    MutexLock lock(&mutex_);
    credit_ = std::max(credit_, std::min(cap, credit_ + tokens));
    wake = std::exchange(room_wanted_, false);
  }
  if (wake && wake_) wake_();
}

bool TokenStream::HasRoom(int64_t tokens) const {
  MutexLock lock(&mutex_);
  const bool room = credit_ >= tokens && token_events_ + static_cast<size_t>(tokens) <= capacity_;
  if (!room) room_wanted_ = true;
  return room;
}

void TokenStream::Push(StreamEvent event) {
  bool was_empty = false;
  {
    MutexLock lock(&mutex_);
    GMA_CHECK(!closed_);
    if (std::holds_alternative<TokenEvent>(event)) {
      GMA_CHECK(credit_ > 0 && token_events_ < capacity_);
      --credit_;
      ++token_events_;
    }
    was_empty = events_.empty();
    events_.push_back(std::move(event));
  }
  if (was_empty && notify_) notify_();
}

void TokenStream::Finish(FinishedEvent event) {
  {
    MutexLock lock(&mutex_);
    GMA_CHECK(!closed_);
    events_.push_back(std::move(event));
    closed_ = absl::OkStatus();
  }
  if (notify_) notify_();
}

void TokenStream::Close(absl::Status status) {
  {
    MutexLock lock(&mutex_);
    GMA_CHECK(!closed_);
    closed_ = std::move(status);
  }
  if (notify_) notify_();
}

}  // namespace gma
