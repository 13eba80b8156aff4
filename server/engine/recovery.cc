// Recovery: from what the store had to a session that goes on where it was.
#include "server/engine/recovery.h"

#include <memory>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/engine/engine_store.h"

namespace gma {

void EngineStore::Recover(const Name& name, ClaimedSession claimed) {
  const size_t records = claimed.records.size();
  absl::StatusOr<std::vector<RecordedTurn>> turns = TurnsOf(std::move(claimed.records));
  Session& session = Restore(name, claimed);
  if (!turns.ok()) return EndWaking(name, turns.status());
  const bool wakes_only = turns->empty();
  auto recovery = std::make_unique<Recovery>();
  recovery->turns = *std::move(turns);
  const bool runs = !wakes_only && RunsAgain(recovery->turns.back());
  const size_t lived = recovery->turns.size() - (runs ? 1 : 0);
  const int64_t fed = session.fed();
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < lived; ++i) {
    const bool last = i + 1 == recovery->turns.size();
    const int64_t before = session.fed();
    const absl::StatusOr<std::vector<int32_t>> more =
        LiveThrough(table_, session, recovery->turns[i], clock_.Monotonic());
    if (!more.ok()) return EndWaking(name, more.status());
    tokens.insert(tokens.end(), more->begin(), more->end());
    if (last) {
      recovery->history = HistoryOf(recovery->turns[i], before, options_.resume_events);
    }
  }
  if (wakes_only) session.stored().saved = session.stored().version;
  if (!wakes_only) histories_.erase(session.number());  // later turns followed that one
  if (tokens.empty() && !runs) return EndRecovery(name, *recovery);
  GMA_LOG(kInfo, "session_recovering",
          {{"session", name.second.Short()},
           {"records", records},
           {"context_tokens", session.context_tokens()},
           {"tokens_to_feed", tokens.size()},
           {"runs_again", runs}});
  const std::optional<int32_t> pending = session.pending();
  if (!tokens.empty()) {
    session.FeedAgainFrom(fed);
    tokens.push_back(*pending);
  }
  recovery->tokens = std::move(tokens);
  recoveries_[name] = std::move(recovery);
  waking_.at(name).recovering = true;
  EngineMessage go =
      RecoverMessage{.owner = name.first,
                     .id = name.second,
                     .done = [this, name](const absl::StatusOr<SessionSnapshotInfo>& info) {
                       EndWaking(name, info.status());
                     }};
  Dispatch(go);
}

void EngineStore::OnMessage(RecoverMessage message) {
  const Name name(message.owner, message.id);
  Session* const session = table_.Peek(message.owner, message.id);
  if (session == nullptr) {  // it has expired on the way
    return EndWaking(name, table_.Find(name.first, name.second, clock_.Monotonic()).status());
  }
  std::vector<int32_t> tokens = std::exchange(recoveries_.at(name)->tokens, {});
  if (tokens.empty()) return RunLastTurn(name);
  FeedAgain(name, *session, std::move(tokens));
}

void EngineStore::FeedAgain(const Name& name, Session& session, std::vector<int32_t> tokens) {
  auto owned = std::make_unique<Request>();
  Request& request = *owned;
  shared_->waiting.fetch_add(1);
  requests_.push_back(std::move(owned));
  request.owner = name.first;
  request.session_id = name.second;
  request.deadline = absl::InfiniteDuration();
  request.accepted_at = clock_.Monotonic();
  request.rewind = RewindTarget(int64_t{0});  // without events of its own
  request.replays = true;
  request.request_key = session.turn_key();
  request.done = [this, name](const absl::StatusOr<SessionSnapshotInfo>& info) {
    if (!info.ok()) return EndWaking(name, info.status());
    RunLastTurn(name);
  };
  request.feed = std::move(tokens);
  StartTurn(request, session, TurnKind::kReplay, /*new_input=*/false);
}

void EngineStore::EndRecovery(const Name& name, const Recovery& recovery) {
  const Session& session = *table_.Peek(name.first, name.second);
  if (recovery.history != nullptr) histories_[session.number()] = recovery.history;
  EndWaking(name, absl::OkStatus());
}

void EngineStore::RunLastTurn(const Name& name) {
  Session* const session = table_.Peek(name.first, name.second);
  const std::unique_ptr<Recovery> recovery = std::move(recoveries_.at(name));
  recoveries_.erase(name);
  RecordedTurn& turn = recovery->turns.back();
  if (!RunsAgain(turn)) return EndRecovery(name, *recovery);
  if (turn.begin.context_before != session->context_tokens() ||
      turn.begin.first_sequence != session->last_sequence() + 1) {
    return EndWaking(name, absl::DataLossError("the session's journal contradicts itself"));
  }
  auto owned = std::make_unique<Request>();
  Request& request = *owned;
  shared_->waiting.fetch_add(1);
  requests_.push_back(std::move(owned));
  request.generates = true;
  request.recovered = true;
  request.journaled = true;
  request.owner = name.first;
  request.session_id = name.second;
  request.accepted_at = clock_.Monotonic();
  request.request_key = turn.begin.key;
  request.sampling = std::move(turn.begin.sampling);
  request.stop = std::move(turn.begin.stop);
  for (InterjectionRecord& input : turn.inputs) {
    request.recorded.push_back({.drawn = input.drawn, .tokens = std::move(input.tokens)});
  }
  request.feed = session->TokensToFeed({}, turn.begin.feed);
  const bool ended = turn.end.has_value();
  if (ended) {
    request.unread_until = turn.end->last_sequence;
    request.recorded_end = std::move(turn.end);
    request.when_over = [this, name](const absl::Status& status) { EndWaking(name, status); };
  }
  request.detached = true;
  request.deadline =
      ended ? absl::InfiniteDuration() : request.accepted_at + options_.resume_window;
  StartTurn(request, *session, TurnKind::kAnswer, turn.begin.new_input);
  if (!ended) EndWaking(name, absl::OkStatus());
}

}  // namespace gma
