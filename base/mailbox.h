// A bounded queue from many threads to one: how everybody talks to the engine thread.
#ifndef GMA_BASE_MAILBOX_H_
#define GMA_BASE_MAILBOX_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"

namespace gma {

// THREADS: Post from any thread; TakeAll and WaitForMessage from the one consumer.
template <typename Message>
class Mailbox {
 public:
  // REQUIRES: capacity > 0, in messages.
  explicit Mailbox(size_t capacity) : capacity_(capacity) {}

  // Queues `message`; false when the box is full or closed (the message is then untouched).
  [[nodiscard]] bool Post(Message&& message) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    if (closed_ || messages_.size() >= capacity_) return false;
    messages_.push_back(std::move(message));
    work_.NotifyAll();
    return true;
  }

  // Queues `message` whatever the bound, unless the box is closed: for the few kinds of messages
  // that free memory (cancel, close), which a full box must not refuse.
  bool PostUnbounded(Message&& message) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    if (closed_) return false;
    messages_.push_back(std::move(message));
    work_.NotifyAll();
    return true;
  }

  // Moves every queued message, oldest first, into `out` (which is cleared).
  void TakeAll(std::vector<Message>& out) ABSL_LOCKS_EXCLUDED(mutex_) {
    out.clear();
    MutexLock lock(&mutex_);
    out.swap(messages_);
  }

  // Returns when there is a message, the box is closed, Wake was called, or `timeout` is over.
  void WaitForMessage(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::Duration deadline = RealClock().Monotonic() + timeout;
    MutexLock lock(&mutex_);
    while (!HasWork()) {
      const absl::Duration left = deadline - RealClock().Monotonic();
      if (left <= absl::ZeroDuration()) break;
      work_.WaitFor(mutex_, left);
    }
    woken_ = false;
  }

  // Ends the current, or else the next, WaitForMessage.
  void Wake() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    woken_ = true;
    work_.NotifyAll();
  }

  // Refuses all further messages; what is queued can still be taken.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    closed_ = true;
    work_.NotifyAll();
  }

 private:
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return woken_ || closed_ || !messages_.empty();
  }

  const size_t capacity_;
  Mutex mutex_;
  ConditionVariable work_;
  std::vector<Message> messages_ ABSL_GUARDED_BY(mutex_);
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace gma

#endif  // GMA_BASE_MAILBOX_H_
