#include "tests/chaos/history.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace gma::chaos {
namespace {

std::vector<int32_t> TokensOf(const SeenTurn& turn) {
  std::vector<int32_t> tokens;
  for (const SeenEvent& event : turn.events) {
    if (event.token != SeenEvent::kNoToken) tokens.push_back(event.token);
  }
  return tokens;
}

std::string NameOf(const SeenTurn& turn, size_t number) {
  return absl::StrCat("turn ", number, " (", turn.what, "): ");
}

void CompareTurn(const SeenTurn& seen, const SeenTurn& right, const std::string& name,
                 std::vector<std::string>& faults) {
  if (seen.what != right.what) {
    faults.push_back(absl::StrCat(name, "the undisturbed turn is ", right.what));
    return;
  }
  const std::vector<int32_t> tokens = TokensOf(seen), wanted = TokensOf(right);
  const size_t common = std::min(tokens.size(), wanted.size());
  const auto differs =
      std::mismatch(tokens.begin(), tokens.begin() + static_cast<long>(common), wanted.begin());
  if (differs.first != tokens.begin() + static_cast<long>(common)) {
    faults.push_back(absl::StrCat(name, "token ", differs.first - tokens.begin(), " is ",
                                  *differs.first, ", undisturbed ", *differs.second));
  } else if (tokens.size() != wanted.size()) {
    faults.push_back(
        absl::StrCat(name, "has ", tokens.size(), " tokens, undisturbed ", wanted.size()));
  }
  if (seen.events.size() != right.events.size()) {
    faults.push_back(absl::StrCat(name, "has ", seen.events.size(), " events, undisturbed ",
                                  right.events.size()));
  }
  if (seen.end != right.end) {
    faults.push_back(absl::StrCat(name, "ended by ", seen.end, ", undisturbed by ", right.end));
  }
  if (seen.context_tokens != right.context_tokens) {
    faults.push_back(absl::StrCat(name, "left a context of ", seen.context_tokens,
                                  " tokens, undisturbed ", right.context_tokens));
  }
  if (seen.last_sequence != right.last_sequence) {
    faults.push_back(absl::StrCat(name, "left event ", seen.last_sequence,
                                  " as the last one, undisturbed ", right.last_sequence));
  }
}

}  // namespace

std::vector<std::string> FaultsOf(const SeenSession& seen) {
  std::vector<std::string> faults;
  uint64_t last = 0;
  for (size_t i = 0; i < seen.turns.size(); ++i) {
    const SeenTurn& turn = seen.turns[i];
    for (const SeenEvent& event : turn.events) {
      if (event.sequence == last + 1) {
        last = event.sequence;
        continue;
      }
      faults.push_back(absl::StrCat(NameOf(turn, i), "event ", event.sequence, " came after ", last,
                                    event.sequence > last ? ": a gap" : ": a repeat"));
      last = std::max(last, event.sequence);
    }
    if (turn.last_sequence != last) {
      faults.push_back(absl::StrCat(NameOf(turn, i), "the last event that came is ", last,
                                    ", the server's is ", turn.last_sequence));
      last = std::max(last, turn.last_sequence);
    }
  }
  if (!seen.error.empty()) {
    faults.push_back(absl::StrCat("gave up after ", seen.turns.size(), " turns: ", seen.error));
  }
  return faults;
}

std::vector<std::string> Compare(const SeenSession& seen, const SeenSession& undisturbed) {
  std::vector<std::string> faults = FaultsOf(seen);
  for (const std::string& fault : FaultsOf(undisturbed)) {
    faults.push_back("undisturbed: " + fault);
  }
  const size_t turns = std::min(seen.turns.size(), undisturbed.turns.size());
  for (size_t i = 0; i < turns; ++i) {
    CompareTurn(seen.turns[i], undisturbed.turns[i], NameOf(seen.turns[i], i), faults);
  }
  if (seen.turns.size() != undisturbed.turns.size()) {
    faults.push_back(
        absl::StrCat("had ", seen.turns.size(), " turns, undisturbed ", undisturbed.turns.size()));
  }
  if (seen.state != undisturbed.state) faults.push_back("the state in the end is another");
  return faults;
}

}  // namespace gma::chaos
