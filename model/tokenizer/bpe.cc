#include "model/tokenizer/bpe.h"

#include <algorithm>
#include <functional>

namespace gma {

void BpeMerger::Try(int32_t left) {
  const int32_t right = symbols_[left].next;
  if (right < 0) return;
  ++pairs_tried_;
  const auto rule =
      rules_.merges.find(BpeRules::PairKey(symbols_[left].token, symbols_[right].token));
  if (rule == rules_.merges.end()) return;
  heap_.push_back({rule->second.rank, left, rule->second.result});
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
}

void BpeMerger::Encode(std::string_view piece, std::vector<int32_t>& out) {
  symbols_.clear();
  heap_.clear();
  for (const char c : piece) {
    const int32_t token = rules_.byte_tokens[static_cast<uint8_t>(c)];
    if (token == BpeRules::kNoToken) continue;
    const int32_t index = static_cast<int32_t>(symbols_.size());
    symbols_.push_back({token, index - 1, index + 1});
  }
  if (symbols_.empty()) return;
  symbols_.back().next = -1;
  for (size_t i = 0; i < symbols_.size(); ++i) Try(static_cast<int32_t>(i));

  while (!heap_.empty()) {
    const Candidate best = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.pop_back();
    Symbol& left = symbols_[best.left];
    if (left.token == kDead || left.next < 0) continue;
    Symbol& right = symbols_[left.next];
    // An older entry may name a pair that has changed since; the rule is looked up again.
    const auto rule = rules_.merges.find(BpeRules::PairKey(left.token, right.token));
    if (rule == rules_.merges.end() || rule->second.result != best.result) continue;
    left.token = best.result;
    right.token = kDead;
    left.next = right.next;
    if (left.next >= 0) symbols_[left.next].previous = best.left;
    if (left.previous >= 0) Try(left.previous);
    Try(best.left);
  }
  for (int32_t i = 0; i >= 0; i = symbols_[i].next) out.push_back(symbols_[i].token);
}

}  // namespace gma
