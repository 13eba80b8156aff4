// Byte-pair merging of one piece of text.
#ifndef GMA_MODEL_TOKENIZER_BPE_H_
#define GMA_MODEL_TOKENIZER_BPE_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace gma {

// What merging two neighbours gives. Lower ranks merge first; of equal ranks the leftmost.
struct MergeRule {
  int32_t rank, result;
};

struct BpeRules {
  // Token of each byte; kNoToken where the vocabulary has none. Such bytes are left out before
  // merging, as `tokenizers` does.
  std::array<int32_t, 256> byte_tokens;
  absl::flat_hash_map<uint64_t, MergeRule> merges;  // by PairKey

  static constexpr int32_t kNoToken = -1;
  static uint64_t PairKey(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
};

// Applies the rules. Keeps its buffers between calls, so one merger serves a whole text.
// A piece of n bytes costs O(n log n): at most n - 1 merges, each with two new neighbours.
// THREADS: one thread; borrows the rules.
class BpeMerger {
 public:
  explicit BpeMerger(const BpeRules& rules) : rules_(rules) {}

  // Appends the tokens of `piece` to `out`.
  // REQUIRES: piece.size() < 2^31.
  void Encode(std::string_view piece, std::vector<int32_t>& out);

  // Pairs of neighbours looked up so far: the work done.
  int64_t pairs_tried() const { return pairs_tried_; }

 private:
  // A doubly linked list inside a vector; a symbol merged into its left neighbour is dead.
  struct Symbol {
    int32_t token;
    int32_t previous, next;  // -1 at the ends
  };
  static constexpr int32_t kDead = -2;  // as token

  // Orders by rank, then from left to right. `result` tells whether the entry is still true.
  struct Candidate {
    int32_t rank, left, result;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  // Notes the pair of `left` and its right neighbour if a rule merges it.
  void Try(int32_t left);

  const BpeRules& rules_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  int64_t pairs_tried_ = 0;
};

}  // namespace gma

#endif  // GMA_MODEL_TOKENIZER_BPE_H_
