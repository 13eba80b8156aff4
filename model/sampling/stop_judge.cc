#include "model/sampling/stop_judge.h"

#include <algorithm>
#include <utility>

namespace gma {
namespace {

bool Contains(const std::vector<int32_t>& tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

// The start of the stop string that ends first in `text`, the longest among those that end
// together; npos when none ends after byte `seen`. Going by the end makes the answer independent of
// how the text was cut into pieces.
size_t FindStop(const std::string& text, size_t seen, const std::vector<std::string>& stops) {
  size_t best_begin = std::string::npos, best_end = std::string::npos;
  for (const std::string& stop : stops) {
    const size_t from = seen + 1 > stop.size() ? seen + 1 - stop.size() : 0;
    const size_t begin = text.find(stop, from);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_begin = begin;
      best_end = end;
    }
  }
  return best_begin;
}

// Length of the longest end of `text` that is the start, but not the whole, of a stop string.
size_t UndecidedBytes(std::string_view text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    for (size_t size = std::min(text.size(), stop.size() - 1); size > longest; --size) {
      if (text.substr(text.size() - size) == std::string_view(stop).substr(0, size)) longest = size;
    }
  }
  return longest;
}

}  // namespace

StopJudge::StopJudge(StopParams params, const std::vector<int32_t>& end_tokens)
    : params_(std::move(params)), end_tokens_(end_tokens) {
  if (params_.ignore_eos) end_tokens_.clear();
}

StopJudge::Verdict StopJudge::Judge(int32_t token, std::string_view bytes) {
  ++judged_;
  // A stop token is not part of the answer, so min_tokens others come before it; the token that
  // completes a stop string is, so it may be number min_tokens.
  if (judged_ > params_.min_tokens) {
    if (Contains(params_.stop_tokens, token)) return {FinishReason::kStopToken, Flush()};
    if (Contains(end_tokens_, token)) return {FinishReason::kEndOfText, Flush()};
  }
  std::string text = Flush();
  const size_t seen = text.size();
  text.append(bytes);
  if (judged_ >= params_.min_tokens) {
    const size_t stop = FindStop(text, seen, params_.stop_strings);
    if (stop != std::string::npos) return {FinishReason::kStopString, text.substr(0, stop)};
  }
  if (judged_ >= params_.max_tokens) return {FinishReason::kLength, std::move(text)};
  const size_t decided = text.size() - UndecidedBytes(text, params_.stop_strings);
  held_ = text.substr(decided);
  text.resize(decided);
  return {FinishReason::kNone, std::move(text)};
}

std::string StopJudge::Flush() { return std::exchange(held_, std::string()); }

}  // namespace gma
