// The events of a session's last turn, for readers that come back: what Resume gives again.
// Bounded; the oldest events go first. A token takes 16 bytes and its text.
#ifndef GMA_SERVER_ENGINE_TURN_HISTORY_H_
#define GMA_SERVER_ENGINE_TURN_HISTORY_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/engine/token_stream.h"
#include "server/session/sliding_vector.h"

namespace gma {

// THREADS: engine thread only.
class TurnHistory {
 public:
  // Of a turn whose first event will have the number `begin`. Keeps `capacity` events, >= 1.
  TurnHistory(int64_t begin, int64_t capacity)
      : begin_(begin), capacity_(static_cast<size_t>(capacity)), first_(begin) {}

  // REQUIRES: `event` is of candidate 0 and has the number last() + 1; not ended.
  void Add(const StreamEvent& event);
  // Readers get what is added from now on once it has ended: it is not written down yet.
  void HoldBack() { held_from_ = std::min(held_from_, last() + 1); }
  // No event follows; `status` is what the turn's stream ends with.
  void End(absl::Status status);

  int64_t begin() const { return begin_; }  // the turn's first number, whether it is kept or not
  int64_t first() const { return first_; }  // the oldest event kept; last() + 1 when there is none
  int64_t last() const { return first_ + static_cast<int64_t>(entries_.size() - head_) - 1; }
  // The event of that number, as it was added, without its request_id.
  // REQUIRES: first() <= number <= last().
  StreamEvent At(int64_t number) const;
  int64_t held_from() const { return held_from_; }
  const std::optional<absl::Status>& end() const { return end_; }
  // What is kept, as bytes; nothing of a turn that failed. REQUIRES: its last event was added.
  std::string Serialize() const;
  // Null for bytes that are none of Serialize's, or tell of events out of order.
  static std::shared_ptr<TurnHistory> Parse(std::string_view bytes, int64_t capacity);
  // Bytes on the heap, nearly.
  size_t bytes() const;

 private:
  // Of a token; of another event, which lies in others_, token is kOther. The ends are counted from
  // the turn's first byte and first logprob, modulo 2^32.
  struct Entry {
    int32_t token;
    float logprob;
    uint32_t text_end, tops_end;
  };
  static constexpr int32_t kOther = -1;

  void DropOldest();

  const int64_t begin_;
  const size_t capacity_;
  int64_t first_;
  int64_t held_from_ = INT64_MAX;
  bool logprobs_ = false;  // the turn was asked for them
  // Entries before head_, and text and logprobs before theirs, are gone; they are cut off when they
  // are half of all.
  std::vector<Entry> entries_;
  size_t head_ = 0;
  std::string text_;
  uint32_t text_begin_ = 0, text_cut_ = 0;  // of the first entry kept; of text_'s first byte
  std::vector<TokenLogprob> tops_;
  uint32_t tops_begin_ = 0, tops_cut_ = 0;
  SlidingVector<std::pair<int64_t, StreamEvent>> others_;  // by number
  std::optional<absl::Status> end_;
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_TURN_HISTORY_H_
