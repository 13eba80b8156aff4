// Where a session stands: all of it but the bytes of its state row.
#ifndef GMA_SERVER_SESSION_SESSION_POINT_H_
#define GMA_SERVER_SESSION_SESSION_POINT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace gma {

struct SessionPoint {
  // Drawn tokens remembered to see how much of a closing sequence the answer has drawn itself.
  static constexpr size_t kAnswerTail = 16;

  int64_t fed = 0;                   // tokens in the state
  std::optional<int32_t> pending;    // comes after them, and is fed first
  bool answer_open = false;          // the last turn was an answer
  std::vector<int32_t> answer_tail;  // its last tokens, at most kAnswerTail

  int64_t context_tokens() const { return fed + (pending ? 1 : 0); }
  void AddToTail(int32_t token) {
    if (answer_tail.size() == kAnswerTail) answer_tail.erase(answer_tail.begin());
    answer_tail.push_back(token);
  }
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SESSION_POINT_H_
