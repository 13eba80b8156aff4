#include "tests/soak/turns.h"

namespace gma::soak {
namespace {

constexpr int32_t kInputTokens = 32;  // of what is asked, at most

}  // namespace

std::vector<int32_t> Turns::Tokens(int32_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) {
    token = options_.text.empty() ? static_cast<int32_t>(random_() % options_.vocab_size)
                                  : options_.text[read_++ % options_.text.size()];
  }
  return tokens;
}

Turn Turns::Next(int64_t most) {
  Turn turn;
  turn.kind = random_() % 2 == 0 ? Turn::Kind::kAppend : static_cast<Turn::Kind>(1 + random_() % 3);
  if (turn.kind != Turn::Kind::kAppend) {
    turn.input = Tokens(UpTo(kInputTokens));
    turn.answer = UpTo(options_.answer_tokens);
    turn.seed = random_();
    if (turn.kind == Turn::Kind::kDuplex) turn.interjection = Tokens(UpTo(kInputTokens));
    if (turn.tokens() <= most) return turn;
    turn = Turn();
  }
  const int32_t count = UpTo(options_.append_tokens);
  turn.input = Tokens(static_cast<int32_t>(std::min<int64_t>(count, most)));
  return turn;
}

Turn Turns::Long(Turn::Kind kind) {
  Turn turn;
  turn.kind = kind;
  turn.seed = random_();
  if (kind == Turn::Kind::kAppend) turn.input = Tokens(options_.append_tokens);
  if (kind == Turn::Kind::kSampled) turn.input = Tokens(kInputTokens);
  if (kind != Turn::Kind::kAppend) turn.answer = options_.answer_tokens;
  return turn;
}

}  // namespace gma::soak
