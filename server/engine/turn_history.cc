#include "server/engine/turn_history.h"

#include <algorithm>
#include <variant>

#include "base/check.h"
#include "server/session/byte_codec.h"

namespace gma {

template <typename Codec, SameAs<TokenLogprob> T>
void Fields(Codec& codec, T& value) {
  auto& [token, logprob] = value;
  codec(token, logprob);
}
template <typename Codec, SameAs<SampledToken> T>
void Fields(Codec& codec, T& value) {
  auto& [token, logprob, top_logprobs] = value;
  codec(token, logprob, top_logprobs);
}
template <typename Codec, SameAs<RequestUsage> T>
void Fields(Codec& codec, T& value) {
  auto& [prompt, cached, completion] = value;
  codec(prompt, cached, completion);
}
template <typename Codec, SameAs<RequestTimings> T>
void Fields(Codec& codec, T& value) {
  auto& [queue, prefill, decode, first_token] = value;
  codec(queue, prefill, decode, first_token);
}
template <typename Codec, SameAs<StartedEvent> T>
void Fields(Codec& codec, T& event) {
  auto& [seed, sequence] = event;
  codec(seed, sequence);
}
template <typename Codec, SameAs<TokenEvent> T>
void Fields(Codec& codec, T& event) {
  auto& [candidate, sampled, text, logprobs, sequence] = event;
  codec(candidate, sampled, text, logprobs, sequence);
}
template <typename Codec, SameAs<AppendedEvent> T>
void Fields(Codec& codec, T& event) {
  auto& [context_tokens, tokens, text, request_id, sequence] = event;
  codec(context_tokens, tokens, text, request_id, sequence);
}
template <typename Codec, SameAs<FinishedEvent> T>
void Fields(Codec& codec, T& event) {
  auto& [candidate, reason, text, usage, timings, sequence] = event;
  codec(candidate, reason, text, usage, timings, sequence);
}

namespace {

template <typename Event>
std::optional<StreamEvent> ReadEvent(ByteReader& reader) {
  Event event = {};
  reader(event);
  if (!reader.sound()) return std::nullopt;
  if constexpr (std::is_same_v<Event, TokenEvent>) {
    if (event.candidate != 0 || event.sampled.token < 0) return std::nullopt;
  }
  return event;
}

// By the place of the event's type in StreamEvent.
std::optional<StreamEvent> ReadEvent(ByteReader& reader, uint8_t kind) {
  switch (kind) {
    case 0:
      return ReadEvent<StartedEvent>(reader);
    case 1:
      return ReadEvent<TokenEvent>(reader);
    case 2:
      return ReadEvent<AppendedEvent>(reader);
    case 3:
      return ReadEvent<FinishedEvent>(reader);
    default:
      return std::nullopt;
  }
}

}  // namespace

void TurnHistory::Add(const StreamEvent& event) {
  GMA_CHECK(!end_ && SequenceOf(event) == last() + 1);
  Entry entry = {.token = kOther,
                 .logprob = 0,
                 .text_end = text_cut_ + static_cast<uint32_t>(text_.size()),
                 .tops_end = tops_cut_ + static_cast<uint32_t>(tops_.size())};
  if (const auto* token = std::get_if<TokenEvent>(&event)) {
    GMA_CHECK(token->candidate == 0 && token->sampled.token >= 0);
    const std::vector<TokenLogprob>& tops = token->sampled.top_logprobs;
    logprobs_ = token->logprobs;
    text_ += token->text;
    tops_.insert(tops_.end(), tops.begin(), tops.end());
    entry.token = token->sampled.token;
    entry.logprob = token->sampled.logprob;
    entry.text_end += static_cast<uint32_t>(token->text.size());
    entry.tops_end += static_cast<uint32_t>(tops.size());
  } else {
    others_.push_back({last() + 1, event});
    if (auto* appended = std::get_if<AppendedEvent>(&others_.back().second)) {
      appended->request_id.reset();
    }
  }
  entries_.push_back(entry);
  while (entries_.size() - head_ > capacity_) DropOldest();
}

void TurnHistory::DropOldest() {
  const Entry& oldest = entries_[head_];
  if (oldest.token == kOther) others_.pop_front();
  text_begin_ = oldest.text_end;
  tops_begin_ = oldest.tops_end;
  ++first_;
  if (++head_ * 2 < entries_.size()) return;
  // Each entry is moved once or twice in its life.
  entries_.erase(entries_.begin(), entries_.begin() + static_cast<ptrdiff_t>(head_));
  head_ = 0;
  text_.erase(0, text_begin_ - text_cut_);
  text_cut_ = text_begin_;
  tops_.erase(tops_.begin(), tops_.begin() + (tops_begin_ - tops_cut_));
  tops_cut_ = tops_begin_;
}

void TurnHistory::End(absl::Status status) {
  GMA_CHECK(!end_);
  end_ = std::move(status);
  // It may lie here for hours now.
  entries_.shrink_to_fit();
  text_.shrink_to_fit();
  tops_.shrink_to_fit();
  others_.shrink_to_fit();
}

StreamEvent TurnHistory::At(int64_t number) const {
  GMA_CHECK(first() <= number && number <= last());
  const size_t at = head_ + static_cast<size_t>(number - first_);
  const Entry& entry = entries_[at];
  if (entry.token == kOther) {
    const auto other = std::lower_bound(others_.begin(), others_.end(), number,
                                        [](const std::pair<int64_t, StreamEvent>& left,
                                           int64_t right) { return left.first < right; });
    return other->second;
  }
  const uint32_t text_from = at == head_ ? text_begin_ : entries_[at - 1].text_end;
  const uint32_t tops_from = at == head_ ? tops_begin_ : entries_[at - 1].tops_end;
  TokenEvent event = {.candidate = 0, .sampled = {}};
  event.sampled.token = entry.token;
  event.sampled.logprob = entry.logprob;
  event.text = text_.substr(text_from - text_cut_, entry.text_end - text_from);
  event.sampled.top_logprobs.assign(tops_.begin() + (tops_from - tops_cut_),
                                    tops_.begin() + (entry.tops_end - tops_cut_));
  event.logprobs = logprobs_;
  event.sequence = number;
  return event;
}

std::string TurnHistory::Serialize() const {
  if (end_ && !end_->ok()) return {};
  ByteWriter writer;
  writer(begin_, first_, last() - first_ + 1);
  for (int64_t number = first_; number <= last(); ++number) {
    const StreamEvent event = At(number);
    writer(static_cast<uint8_t>(event.index()));
    std::visit([&writer](const auto& typed) { writer(typed); }, event);
  }
  return std::move(writer).Take();
}

std::shared_ptr<TurnHistory> TurnHistory::Parse(std::string_view bytes, int64_t capacity) {
  ByteReader reader(bytes);
  int64_t begin = 0, first = 0, count = 0;
  reader(begin, first, count);
  constexpr int64_t kMost = int64_t{1} << 60;  // far from where sums overflow
  if (!reader.sound() || begin < 1 || first < begin || first > kMost) return nullptr;
  auto history = std::make_shared<TurnHistory>(begin, capacity);
  history->first_ = first;
  for (int64_t i = 0; i < count; ++i) {
    uint8_t kind = 0;
    reader(kind);
    const std::optional<StreamEvent> event = ReadEvent(reader, kind);
    if (!event || SequenceOf(*event) != history->last() + 1) return nullptr;
    history->Add(*event);
  }
  if (!reader.AtEnd()) return nullptr;
  history->End(absl::OkStatus());
  return history;
}

size_t TurnHistory::bytes() const {
  return sizeof(*this) + entries_.capacity() * sizeof(Entry) + text_.capacity() +
         tops_.capacity() * sizeof(TokenLogprob) + others_.size() * sizeof(others_.front());
}

}  // namespace gma
