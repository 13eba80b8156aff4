// Prefix reuse: requests that begin where an earlier one has been, and what is kept for them.
#include <cstring>
#include <memory>
#include <vector>

#include "server/engine/engine_state.h"

namespace gma {
namespace {

// Token ids of a private request, whose states are kept up to there.
constexpr int64_t kPrivateTokens = 65536;

}  // namespace

SessionPast EngineState::PrivatePast() const {
  return SessionPast({.rewind_tokens = prefixes_.on() ? kPrivateTokens : 0}, nullptr);
}

void EngineState::StartFromPrefix(Request& request, absl::Span<const size_t> marks) {
  if (!prefixes_.on()) return;
  Session& session = *request.candidates.front().session;
  // The token after the match is fed in any case: it gives the logits of the first answer token, or
  // it is the one that stays pending.
  const absl::Span<const int32_t> feed = request.feed;
  const PrefixCache::Match match =
      prefixes_.Find(session.owner().number, feed.first(feed.size() - 1));
  if (match.tokens > 0) {
    session.row().Write(match.row->bytes());
    session.Advance(feed.first(match.tokens), feed[match.tokens]);
    request.next = match.tokens;
    request.cached_tokens = static_cast<int64_t>(match.tokens);
    request.kept = match.tokens;
    metrics_.prefix_hits->Increment();
    metrics_.prefix_tokens_saved->Increment(static_cast<double>(match.tokens));
  } else {
    metrics_.prefix_misses->Increment();
  }
  // The first mark ends the system prompt, which most requests share; the last one ends what the
  // next turn of the same conversation, or another try at this one, begins with.
  size_t kept = match.tokens;
  if (marks.empty()) return;
  for (const size_t mark : {marks.front(), marks.back()}) {
    if (mark < kept + PrefixCache::kLeastTokens || mark >= request.feed_end()) continue;
    request.keep_at.push_back(mark);
    kept = mark;
  }
}

void EngineState::KeepPrefix(Request& request, const Session& session) {
  const size_t fed = static_cast<size_t>(session.fed());
  const TokenLog& log = session.past().log();
  if (!prefixes_.on() || fed < request.kept + PrefixCache::kLeastTokens || log.begin() != 0) return;
  request.kept = fed;
  std::shared_ptr<const SavedRow> same;
  for (const Checkpoint& checkpoint : session.past().ring().all()) {
    if (checkpoint.of_present_past() && checkpoint.point.fed == session.fed())
      same = checkpoint.row;
  }
  prefixes_.Put(session.owner().number, log.Tokens(0, session.fed()), session.row().view(),
                std::move(same));
}

}  // namespace gma
