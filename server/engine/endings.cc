// How turns end. State rows and the session go back first, then the client hears of it.
#include <deque>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "server/engine/engine_core.h"

namespace gma {
namespace {

FinishedReasonLabel LabelOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopToken:
      return FinishedReasonLabel::kStopToken;
    case FinishReason::kStopString:
      return FinishedReasonLabel::kStopString;
    case FinishReason::kEndOfText:
      return FinishedReasonLabel::kEndOfText;
    case FinishReason::kLength:
      return FinishedReasonLabel::kLength;
    case FinishReason::kCancelled:
      return FinishedReasonLabel::kCancelled;
    case FinishReason::kNone:
      break;
  }
  GMA_CHECK(false);
}

}  // namespace

void EngineCore::FinishCandidate(Request& request, Candidate& candidate, FinishReason reason) {
  // Input that is not written down yet is told with the end of the turn, which is written behind
  // it.
  if (request.held_by != 0 && request.history != nullptr) request.history->HoldBack();
  for (AppendedEvent& entered : std::exchange(request.entered, {})) {
    Emit(request, std::move(entered));
  }
  FinishedEvent event = {.candidate = candidate.index,
                         .reason = reason,
                         .text = candidate.judge ? candidate.judge->Flush() : std::string(),
                         .usage = UsageOf(request, candidate),
                         .timings = TimingsOf(request, candidate)};
  const FinishedReasonLabel label = LabelOf(reason);
  metrics_.request_success[label]->Increment();
  metrics_.request_generation_tokens->Observe(static_cast<double>(candidate.completion_tokens));
  if (candidate.completion_tokens > 0) metrics_.request_decode_time->Observe(event.timings.decode);
  GMA_LOG(kInfo, "request_finished",
          {{"session", request.is_private() ? "" : request.session_id->Short()},
           {"candidate", candidate.index},
           {"reason", FinishedReasonName(label)},
           {"prompt_tokens", event.usage.prompt_tokens},
           {"completion_tokens", event.usage.completion_tokens},
           {"queue_seconds", event.timings.queue},
           {"first_token_seconds", event.timings.first_token},
           {"decode_seconds", event.timings.decode}});
  // Of n answers one is kept.
  if (request.is_private() && candidate.index == 0 && candidate.completion_tokens > 0) {
    KeepPrefix(request, *candidate.session);
  }
  ReleaseCandidate(candidate);
  if (--request.live > 0) return Emit(request, std::move(event));  // a private request's
  // Of a session's own turn; one that still waited for it has no say.
  const bool began = request.history != nullptr;
  StreamEvent numbered = std::move(event);
  if (began) request.history->HoldBack();
  Record(request, numbered);
  EndRequest(request);
  if (began) {
    table_.KeepAutomatic(*request.session);
    KeepPrefix(request, *request.session);
    EndAnswer(request, reason);
  } else {
    request.stream->Finish(std::get<FinishedEvent>(std::move(numbered)));
  }
  BeginNextTurn(request);
  if (request.when_over != nullptr) request.when_over(absl::OkStatus());
}

void EngineCore::EndAnswer(Request& request, FinishReason reason) {
  // Nobody hears of the end before it is written down: who has, finds the turn over, also after a
  // kill and on another server.
  const bool waits = JournalEnd(request, reason, /*failed=*/false,
                                [this, history = request.history](const absl::Status& status) {
                                  const bool tells = options_.durability == Durability::kAlways ||
                                                     status.code() == absl::StatusCode::kAborted;
                                  history->End(tells ? status : absl::OkStatus());
                                });
  if (!waits) return EndReader(request, absl::OkStatus());
  if (request.stream == nullptr) return;
  replays_.Add(request.session->number(), std::move(request.stream), request.history,
               request.delivered);
}

void EngineCore::FinishAppend(Request& request) {
  Session& session = *request.session;
  const int64_t appended = session.context_tokens() - request.context_before;
  if (!request.rewind) {
    StreamEvent event = AppendedEvent{.context_tokens = session.context_tokens(),
                                      .tokens = appended,
                                      .text = {},
                                      .request_id = {}};
    Record(request, event);
    request.history->End(absl::OkStatus());
  }
  EndRequest(request);
  if (!request.rewind) {
    table_.KeepAutomatic(session);
    KeepPrefix(request, session);
  }
  SessionSnapshotInfo info = InfoOf(session);
  info.appended_tokens = appended;
  EngineCallback<SessionSnapshotInfo> done = std::move(request.done);
  if (request.rewind && !request.replays) {
    AnswerSaved(session, [done = std::move(done), info](const absl::Status& status) mutable {
      status.ok() ? done(info) : done(status);
    });
    return BeginNextTurn(request);
  }
  JournalEnd(request, FinishReason::kNone, /*failed=*/false);
  BeginNextTurn(request);
  done(info);
}

void EngineCore::Cancel(Request& request, bool by_client) {
  if (request.state == RequestState::kEnded) return;
  if (!by_client) {
    return LoseReader(request, AbandonedError());
  }
  if (request.candidates.empty()) {
    // It still waits for its session: the one answer it asked for ends before it began.
    request.candidates.emplace_back();
    request.live = 1;
  }
  // Ends the request with its last answer.
  for (Candidate& candidate : request.candidates) {
    if (!candidate.ended) FinishCandidate(request, candidate, FinishReason::kCancelled);
  }
}

void EngineCore::Fail(Request& request, const absl::Status& status) {
  GMA_CHECK(request.state != RequestState::kEnded && !status.ok());
  // The row of a Rewind is on its way to where nobody has asked for, and half an Append cannot be
  // called again; the store has the session as it was before.
  const bool half = request.rewind || (shutting_down_ && !request.generates);
  if (half && request.begun()) request.session->stored().unfinished = true;
  metrics_.request_error[status.code()]->Increment();
  GMA_LOG(kInfo, "request_failed",
          {{"session", request.is_private() ? "" : request.session_id->Short()},
           {"code", absl::StatusCodeToString(status.code())},
           {"prompt_tokens", request.prompt_tokens()},
           {"seconds", absl::ToDoubleSeconds(clock_.Monotonic() - request.accepted_at)}});
  for (Candidate& candidate : request.candidates) ReleaseCandidate(candidate);
  EndRequest(request);
  if (request.history != nullptr) {
    EndReader(request, status);
  } else if (request.stream != nullptr) {
    request.stream->Close(status);
  }
  if (request.history != nullptr) JournalEnd(request, FinishReason::kNone, /*failed=*/true);
  BeginNextTurn(request);
  if (!request.generates) request.done(status);
  if (request.when_over != nullptr) request.when_over(status);
}

void EngineCore::EndSession(Session& session, SessionEnd end, const absl::Status& status) {
  const std::string owner = session.owner().name;
  const SessionId id = session.id();
  const StoredState stored = session.stored();
  const auto it = turns_.find(session.number());
  if (it != turns_.end()) {
    // Taken out first: the end of the active turn must not begin the next one.
    const std::deque<Request*> waiting = std::exchange(it->second.waiting, {});
    // Nothing of it is written any more: of a lost session the store has all that it takes.
    it->second.active->left = true;
    Fail(*it->second.active, status);
    for (Request* request : waiting) Fail(*request, status);
  }
  if (end == SessionEnd::kClosed && stored.exists) {
    keeper_->Remove({.owner = owner, .id = id}, stored.epoch);
  }
  if (table_.Peek(owner, id) != &session) return;  // it was on its way from the store
  histories_.erase(session.number());
  if (end == SessionEnd::kLost && journals() && stored.exists && !stored.needs_snapshot) {
    return table_.Forget(session);  // who asks for it next finds it there
  }
  table_.Erase(session, end, clock_.Monotonic());
}

void EngineCore::ReleaseCandidate(Candidate& candidate) {
  candidate.ended = true;
  candidate.session = nullptr;
  if (candidate.private_session) table_.ErasePrivate(std::move(candidate.private_session));
}

void EngineCore::EndRequest(Request& request) {
  const absl::Duration now = clock_.Monotonic();
  const RequestState state = std::exchange(request.state, RequestState::kEnded);
  ended_some_ = true;
  held_.erase(request.held_by);
  (state == RequestState::kRunning ? shared_->running : shared_->waiting).fetch_sub(1);
  if (request.generates) {
    by_stream_.erase(request.stream.get());
    if (state == RequestState::kRunning) {
      const double seconds = absl::ToDoubleSeconds(now - request.accepted_at);
      metrics_.e2e_request_latency->Observe(seconds);
      mean_request_seconds_ += 0.1 * (seconds - mean_request_seconds_);
    }
  }
  if (request.session == nullptr) return;
  if (state == RequestState::kWaitingForSession) {
    const auto it = turns_.find(request.session->number());
    if (it != turns_.end()) std::erase(it->second.waiting, &request);
    return;
  }
  metrics_.session_context_tokens->Observe(static_cast<double>(request.session->context_tokens()));
  table_.EndTurn(*request.session, now);
}

void EngineCore::BeginNextTurn(Request& ended) {
  if (ended.session == nullptr) return;
  Session& session = *ended.session;
  const auto it = turns_.find(session.number());
  if (it == turns_.end() || it->second.active != &ended) return;
  it->second.active = nullptr;
  while (!it->second.waiting.empty()) {
    Request& next = *it->second.waiting.front();
    it->second.waiting.pop_front();
    const absl::Status status =
        next.abandoned() ? AbandonedError() : BeginSessionTurn(next, session);
    // It is the active turn now; or it was, and has begun the one after it.
    if (status.ok()) return;
    Fail(next, status);
  }
  turns_.erase(it);
}

RequestUsage EngineCore::UsageOf(const Request& request, const Candidate& candidate) const {
  return {.prompt_tokens = request.prompt_tokens(),
          .cached_tokens = request.cached_tokens,
          .completion_tokens = candidate.completion_tokens};
}

RequestTimings EngineCore::TimingsOf(const Request& request, const Candidate& candidate) const {
  RequestTimings timings;
  if (request.state != RequestState::kRunning) {
    timings.queue = absl::ToDoubleSeconds(clock_.Monotonic() - request.accepted_at);
    return timings;
  }
  timings.queue = absl::ToDoubleSeconds(request.scheduled_at - request.accepted_at);
  if (candidate.completion_tokens == 0) return timings;
  timings.prefill = absl::ToDoubleSeconds(candidate.first_token_at - request.scheduled_at);
  timings.decode = absl::ToDoubleSeconds(candidate.last_token_at - candidate.first_token_at);
  timings.first_token = absl::ToDoubleSeconds(candidate.first_token_at - request.accepted_at);
  return timings;
}

}  // namespace gma
