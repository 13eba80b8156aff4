// The last token ids of a session and the turns that they came in: what it takes to feed a part of
// its past again. Positions count from 0, the session's first token; the token at position p is the
// one that is fed when p tokens are in the state.
#ifndef GMA_SERVER_SESSION_TOKEN_LOG_H_
#define GMA_SERVER_SESSION_TOKEN_LOG_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/session/byte_codec.h"
#include "server/session/session_point.h"
#include "server/session/sliding_vector.h"

namespace gma {

// A value. THREADS: one at a time.
class TokenLog {
 public:
  // The largest limit.
  static constexpr int64_t kMaxTokens = 100'000'000;

  // `limit`: token ids remembered, the last ones, at most kMaxTokens; 0: none.
  explicit TokenLog(int64_t limit) : limit_(limit) {}
  TokenLog() : TokenLog(0) {}

  // Positions [begin, end) can be fed again.
  int64_t begin() const;
  int64_t end() const { return first_ + static_cast<int64_t>(tokens_.size()); }

  // A turn has its first effect; what is put from now on belongs to it.
  void BeginTurn(const SessionPoint& before, bool generates, bool new_input);
  // The token of `position`: a new one, or the one that is there, or was there and is forgotten, as
  // when more tokens are fed again than are remembered. `drawn`: the turn drew it.
  // REQUIRES: 0 <= position <= end().
  void Put(int64_t position, int32_t token, bool drawn);

  // Tokens [from, to). REQUIRES: begin() <= from <= to <= end().
  std::vector<int32_t> Tokens(int64_t from, int64_t to) const;
  // Where the session stood when `context` was the number of its tokens: as after a turn that was
  // cut there. REQUIRES: begin() < context <= end().
  SessionPoint PointAt(int64_t context) const;

  // Forgets every token from `end` on. REQUIRES: begin() <= end <= end().
  void Truncate(int64_t end);
  // Forgets everything: the session stands at `point`, of whose past nothing is known.
  void Restart(const SessionPoint& point);
  // Remembers at most `limit` token ids from now on. REQUIRES: remembers(); limit as at first.
  void SetLimit(int64_t limit);
  bool remembers() const { return limit_ > 0; }

  // All of it as bytes, about 4 a token.
  std::string Serialize() const;
  // ERRORS: kInvalidArgument for what no log of a session with `context` tokens serializes to.
  static absl::StatusOr<TokenLog> Parse(std::string_view bytes, int32_t vocab_size,
                                        int64_t context);

 private:
  static constexpr int64_t kNothing = INT64_MAX;
  struct Turn {
    int64_t start = 0;  // position of the first token that it added
    bool generates = false, new_input = false;
    int64_t drawn_from = kNothing;     // first position that it drew; kNothing: none
    std::vector<int32_t> tail_before;  // answer_tail when it began
  };
  template <typename Codec, SameAs<Turn> T>
  friend void Fields(Codec& codec, T& turn) {
    auto& [start, generates, new_input, drawn_from, tail_before] = turn;
    codec(start, generates, new_input, drawn_from, tail_before);
  }

  int32_t at(int64_t position) const { return tokens_[static_cast<size_t>(position - first_)]; }
  void DropOldest();
  // What every log keeps to.
  bool Sound(int32_t vocab_size, int64_t context) const;

  int64_t limit_;
  // Of position first_ on: kAnswerTail more than can be fed again, so that the tail of an answer is
  // known at each of those, unless the log starts at first_.
  int64_t first_ = 0;
  bool starts_at_first_ = true;
  SlidingVector<int32_t> tokens_;
  SlidingVector<Turn> turns_;  // ascending starts; the oldest covers begin(), or it is all there is
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_TOKEN_LOG_H_
