// Events of turns and their readers: numbers, history, readers that go and come back.
#include <algorithm>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/engine/engine_core.h"

namespace gma {

void EngineState::Record(Request& request, StreamEvent& event) {
  if (request.is_private()) return SetSequence(event, ++request.events);
  if (!request.begun()) return;  // the end of a turn that never was
  SetSequence(event, request.session->TakeSequence());
  request.history->Add(event);
}

void EngineState::Emit(Request& request, StreamEvent event) {
  Record(request, event);
  if (request.stream == nullptr) return;
  // One that is behind, or knows the event, gets what comes after it elsewhere (PumpReaders).
  const int64_t number = SequenceOf(event);
  if (request.history != nullptr &&
      (request.delivered + 1 != number || number >= request.history->held_from())) {
    return;
  }
  ++request.delivered;
  request.stream->Push(std::move(event));
}

bool EngineCore::HasRoom(const Request& request, int64_t tokens) const {
  if (request.history == nullptr) return request.stream->HasRoom(tokens);
  const int64_t last = request.history->last();
  if (request.delivered > last) return true;  // its reader knows the next token
  if (request.stream == nullptr) return last < request.unread_until;
  return request.delivered == last && request.stream->HasRoom(tokens);
}

void EngineCore::EndReader(Request& request, absl::Status status) {
  if (request.history != nullptr) request.history->End(std::move(status));
  const std::shared_ptr<TokenStream> stream = std::move(request.stream);
  if (stream == nullptr || Deliver(*stream, *request.history, request.delivered)) return;
  replays_.Add(request.session->number(), stream, request.history, request.delivered);
}

void EngineCore::LoseReader(Request& request, const absl::Status& status) {
  // While the server drains, a turn that is written down is left to who has the session next, and
  // any other one ends as cancelled.
  const bool can_wait = !request.is_private() && request.generates && request.begun() &&
                        options_.resume_window > absl::ZeroDuration();
  if (!can_wait) return Fail(request, status);
  metrics_.request_error[status.code()]->Increment();
  GMA_LOG(kInfo, "turn_detached",
          {{"session", request.session_id->Short()},
           {"code", absl::StatusCodeToString(status.code())},
           {"last_sequence", request.session->last_sequence()}});
  by_stream_.erase(request.stream.get());
  request.stream->Close(status);
  Detach(request);
}

void EngineCore::Detach(Request& request) {
  request.stream = nullptr;
  request.detached = true;
  request.delivered = std::min(request.delivered, request.session->last_sequence());
  request.deadline = clock_.Monotonic() + options_.resume_window;
  // The next one is not held up by a reader that may never come.
  const std::deque<Request*>& waiting = turns_[request.session->number()].waiting;
  if (waiting.empty()) return;
  if (request.recovered) return CatchUp(request, waiting.front()->after);
  Cancel(request, /*by_client=*/true);
}

void EngineCore::CatchUp(Request& rerun, std::optional<int64_t> until) {
  const int64_t most = rerun.history->begin() + options_.resume_events;
  rerun.unread_until = std::max(rerun.unread_until, std::min(until.value_or(most), most));
  rerun.deadline = absl::InfiniteDuration();
}

void EngineCore::EndDetached(Request& request, absl::Duration now) {
  const std::deque<Request*>& waiting = turns_.at(request.session->number()).waiting;
  if (shared_->draining && waiting.empty()) {
    return request.journaled ? Leave(request) : Cancel(request, /*by_client=*/true);
  }
  if (!request.recovered) {
    if (request.deadline <= now || shared_->draining) Cancel(request, /*by_client=*/true);
    return;
  }
  // How much of it was seen before the restart nobody here knows: without a reader it ends where it
  // would have.
  if (request.deadline <= now) CatchUp(request, std::nullopt);
  const int64_t last = request.history->last();
  if (request.recorded_end || request.unread_until == 0 || last < request.unread_until) return;
  // The end of the turn, which nobody has read, is the next event.
  if (!waiting.empty() && waiting.front()->after == last) waiting.front()->after.reset();
  Cancel(request, /*by_client=*/true);
}

void EngineCore::Leave(Request& request) {
  const std::string owner = request.owner;
  const SessionId id = *request.session_id;
  const uint64_t number = request.session->number();
  request.left = true;
  Fail(request, absl::UnavailableError("the server is shutting down"));
  Session* const session = table_.Peek(owner, id);
  if (session == nullptr || session->number() != number) return;
  if (!session->stored().unfinished || session->stored().needs_snapshot) return;
  histories_.erase(number);
  table_.Forget(*session);
}

void EngineCore::OnMessage(const ResumeMessage& message) {
  if (message.stream->cancelled()) return message.stream->Close(absl::CancelledError());
  const ResumeSpec& spec = message.spec;
  absl::StatusOr<Session*> session = table_.Find(spec.owner, spec.session, clock_.Monotonic());
  const absl::Status status = session.ok()
                                  ? ResumeTurn(**session, message.stream, spec.after, spec.deadline)
                                  : session.status();
  if (status.ok()) return;
  metrics_.request_error[status.code()]->Increment();
  message.stream->Close(status);
}

absl::Status EngineCore::ResumeTurn(Session& session, std::shared_ptr<TokenStream> stream,
                                    std::optional<int64_t> after, absl::Duration deadline) {
  const auto turns = turns_.find(session.number());
  Request* const active = turns == turns_.end() ? nullptr : turns->second.active;
  if (active != nullptr && !active->generates) return BusyError(session);
  const auto found = histories_.find(session.number());
  const TurnHistory* const history = found == histories_.end() ? nullptr : found->second.get();
  const int64_t last = session.last_sequence();
  const int64_t oldest = history == nullptr ? last + 1 : history->first();
  // Without `after`: all of the turn, of which nothing may be left.
  const int64_t from =
      after.value_or(history == nullptr ? std::max<int64_t>(last - 1, 0) : history->begin() - 1);
  if (from > last && (active == nullptr || !active->recovered)) {
    metrics_.stream_resumes[ResumeLabel::kFuture]->Increment();
    if (doubtful_) return DoubtfulError();
    return absl::OutOfRangeError(absl::StrCat("after is ", from,
                                              ", from the future: the last event of session ",
                                              session.id().Hex(), " is ", last));
  }
  if (from + 1 < oldest) {
    metrics_.stream_resumes[ResumeLabel::kGone]->Increment();
    return GoneError(from, oldest);
  }
  replays_.TakeOver(session.number());  // the newer reader wins
  metrics_
      .stream_resumes[active != nullptr ? ResumeLabel::kLive
                      : from == last    ? ResumeLabel::kNothing
                                        : ResumeLabel::kHistory]
      ->Increment();
  if (active != nullptr) {
    Attach(*active, std::move(stream), from, deadline);
  } else if (history == nullptr) {
    stream->Close(absl::OkStatus());
  } else if (int64_t delivered = from; !Deliver(*stream, *history, delivered)) {
    replays_.Add(session.number(), std::move(stream), found->second, delivered);
  }
  return absl::OkStatus();
}

void EngineCore::Attach(Request& request, std::shared_ptr<TokenStream> stream, int64_t after,
                        absl::Duration deadline) {
  if (request.stream != nullptr) {
    by_stream_.erase(request.stream.get());
    request.stream->Close(TakenOverError());
  }
  request.stream = std::move(stream);
  by_stream_[request.stream.get()] = &request;
  request.delivered = after;
  request.deadline = deadline;
  request.detached = false;
  for (AppendedEvent& event : request.entered) event.request_id.reset();
  PumpReader(request);
}

bool EngineCore::PumpReader(Request& request) {
  if (request.stream == nullptr || request.history == nullptr) return false;
  const int64_t delivered = request.delivered;
  if (delivered >= request.history->last()) return false;
  if (Deliver(*request.stream, *request.history, request.delivered)) {
    // It was too slow for what is kept.
    by_stream_.erase(request.stream.get());
    Detach(request);
    return true;
  }
  return request.delivered != delivered;
}

bool EngineCore::PumpReaders() {
  bool some = false;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i]->begun()) some |= PumpReader(*requests_[i]);
  }
  return replays_.Pump() || some;
}

Request* EngineCore::FindKey(const Request& request, const Session& session) {
  const auto turns = turns_.find(session.number());
  if (turns == turns_.end()) return nullptr;
  for (Request* waiting : turns->second.waiting) {
    if (waiting->request_key == request.request_key) return waiting;
  }
  Request* const active = turns->second.active;
  return active->request_key == request.request_key ? active : nullptr;
}

absl::StatusOr<bool> EngineCore::JoinTurn(Request& request, Session& session) {
  if (request.request_key.empty()) return false;
  Request* const same = FindKey(request, session);
  if (same == nullptr && session.turn_key() != request.request_key) return false;
  const bool generates = same != nullptr ? same->generates : session.last_turn_answers();
  if (generates != request.generates) {
    return absl::InvalidArgumentError(absl::StrCat("request_key is that of the session's last ",
                                                   generates ? "Generate" : "Append"));
  }
  // What was accepted for this call is let go; its stream or callback goes to the turn.
  std::shared_ptr<TokenStream> stream = request.stream;
  EndRequest(request);
  request.stream = nullptr;
  if (!generates) {
    AnswerAgain(request, same, session);
    return true;
  }
  if (same != nullptr && !same->begun()) {
    Attach(*same, std::move(stream), /*after=*/0, request.deadline);
    return true;
  }
  const absl::Status status = ResumeTurn(session, stream, request.after, request.deadline);
  if (!status.ok()) {
    metrics_.request_error[status.code()]->Increment();
    stream->Close(status);
  }
  return true;
}

void EngineCore::AnswerAgain(Request& again, Request* same, const Session& session) {
  EngineCallback<SessionSnapshotInfo> done = std::move(again.done);
  if (same != nullptr) {
    if (same->caller_gone != nullptr) {
      same->caller_gone = [first = std::move(same->caller_gone), second = again.caller_gone] {
        return first() && second != nullptr && second();
      };
    }
    same->done = [first = std::move(same->done),
                  second = std::move(done)](absl::StatusOr<SessionSnapshotInfo> info) mutable {
      first(info);
      second(std::move(info));
    };
    return;
  }
  const auto history = histories_.find(session.number());
  SessionSnapshotInfo info = InfoOf(session);
  if (history != histories_.end()) {
    const TurnHistory& past = *history->second;
    if (!past.end()->ok()) return done(*past.end());
    const StreamEvent event = past.At(past.last());
    info.appended_tokens = std::get<AppendedEvent>(event).tokens;
  }
  done(info);
}

}  // namespace gma
