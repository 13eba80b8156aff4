// The turns of a soak: what is fed and how much is drawn, the same for the same seed.
#ifndef GMA_TESTS_SOAK_TURNS_H_
#define GMA_TESTS_SOAK_TURNS_H_

#include <cstdint>
#include <random>
#include <vector>

namespace gma::soak {

struct Turn {
  enum class Kind {
    kAppend,   // input alone
    kSampled,  // input, then an answer at temperature 0.8
    kGreedy,   // input, or none, then the most probable tokens
    kDuplex,   // as kGreedy, and more input while the answer is drawn
  };
  Kind kind = Kind::kAppend;
  std::vector<int32_t> input;
  std::vector<int32_t> interjection;  // of kDuplex
  int32_t answer = 0;                 // tokens to draw
  uint64_t seed = 0;                  // of kSampled

  int64_t tokens() const {
    return static_cast<int64_t>(input.size() + interjection.size()) + answer;
  }
};

struct TurnOptions {
  int32_t append_tokens = 512;  // of an append at most
  int32_t answer_tokens = 64;   // of an answer at most
  int32_t vocab_size = 0;
  uint64_t seed = 1;
  std::vector<int32_t> text;  // fed again and again; empty: random token ids
};

// THREADS: one at a time.
class Turns {
 public:
  explicit Turns(TurnOptions options) : options_(std::move(options)), random_(options_.seed) {}

  // The next one, of `most` tokens at most. REQUIRES: most > 0.
  Turn Next(int64_t most);
  // One of a certain kind and of the greatest length; kGreedy: without input.
  Turn Long(Turn::Kind kind);

 private:
  std::vector<int32_t> Tokens(int32_t count);
  int32_t UpTo(int32_t most) { return 1 + static_cast<int32_t>(random_() % most); }

  const TurnOptions options_;
  std::mt19937_64 random_;
  size_t read_ = 0;  // of the text
};

}  // namespace gma::soak

#endif  // GMA_TESTS_SOAK_TURNS_H_
