// From a message to a turn that can be scheduled.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/engine/engine_core.h"
#include "server/engine/retry_hint.h"

namespace gma {
namespace {

// What a Generate and an Append have in common; empties the spec's owner and input.
template <typename Spec>
std::unique_ptr<Request> NewRequest(Spec& spec, absl::Duration accepted_at) {
  auto request = std::make_unique<Request>();
  request->owner = std::move(spec.owner);
  request->session_id = spec.session;
  request->input = std::move(spec.input);
  request->deadline = spec.deadline;
  request->accepted_at = accepted_at;
  request->wait_if_busy = spec.wait_if_busy;
  request->request_key = std::move(spec.request_key);
  request->after = spec.after;
  return request;
}

// The tokens of `input`; `fresh`: nothing was fed before. Its marks are then within those.
std::vector<int32_t> TakeTokens(InputTokens& input, bool fresh) {
  std::vector<int32_t> tokens = std::move(input.tokens);
  const std::vector<int32_t>& opening = input.opening_tokens;
  if (!fresh || opening.empty()) return tokens;
  tokens.insert(tokens.begin(), opening.begin(), opening.end());
  for (size_t& mark : input.marks) mark += opening.size();
  input.marks.insert(input.marks.begin(), opening.size());
  return tokens;
}

// `doubtful`: perhaps another server has gone on with the session.
absl::Status CheckAfter(const Request& request, const Session& session, bool doubtful) {
  const int64_t last = session.last_sequence();
  if (!request.after || *request.after == last) return absl::OkStatus();
  if (*request.after > last) {
    return doubtful ? DoubtfulError() : StateTooOldError(*request.after, last);
  }
  return absl::AbortedError(absl::StrCat("after is ", *request.after,
                                         ", and the last event of session ", session.id().Hex(),
                                         " is ", last, ": it was used in between"));
}

}  // namespace

Request& EngineCore::AddRequest(GenerateMessage message) {
  GenerateSpec& spec = message.spec;
  std::unique_ptr<Request> request = NewRequest(spec, message.accepted_at);
  request->generates = true;
  request->priority = spec.priority;
  request->stream = std::move(message.stream);
  request->sampling = std::move(spec.sampling);
  request->stop = std::move(spec.stop);
  request->n = spec.n;
  by_stream_[request->stream.get()] = request.get();
  requests_.push_back(std::move(request));
  return *requests_.back();
}

void EngineCore::OnMessage(GenerateMessage message) { Admit(AddRequest(std::move(message))); }

std::unique_ptr<Request> NewAppend(AppendSpec& spec, absl::Duration accepted_at) {
  std::unique_ptr<Request> request = NewRequest(spec, accepted_at);
  request->caller_gone = std::move(spec.abandoned);
  return request;
}

void EngineCore::OnMessage(AppendMessage message) {
  if (Interject(message)) return;
  std::unique_ptr<Request> request = NewAppend(message.spec, message.accepted_at);
  request->done = std::move(message.done);
  Admit(std::move(request));
}

void EngineCore::OnMessage(RewindMessage message) {
  auto request = std::make_unique<Request>();
  request->owner = std::move(message.spec.owner);
  request->session_id = message.spec.session;
  request->deadline = message.spec.deadline;
  request->accepted_at = message.accepted_at;
  request->after = message.spec.after;
  request->rewind = std::move(message.spec.target);
  request->caller_gone = std::move(message.spec.abandoned);
  request->done = std::move(message.done);
  Admit(std::move(request));
}

void EngineCore::OnMessage(const CancelMessage& message) {
  const auto it = by_stream_.find(message.stream.get());
  if (it != by_stream_.end() && message.by_client && it->second->catches_up()) {
    EngineMessage again = message;
    return WaitIn(for_room_, again);
  }
  if (it != by_stream_.end()) return Cancel(*it->second, message.by_client);
  if (message.by_client && CancelBehind(message)) return;
  std::unique_ptr<GenerateMessage> waiting = TakeWaiting(message.stream.get());
  if (waiting == nullptr) return;
  Request& request = AddRequest(std::move(*waiting));
  request.state = RequestState::kWaitingForSession;
  Cancel(request, message.by_client);
}

void EngineCore::Admit(std::unique_ptr<Request> request) {
  requests_.push_back(std::move(request));
  Admit(*requests_.back());
}

void EngineCore::Admit(Request& request) {
  if (request.abandoned()) return Fail(request, AbandonedError());
  if (request.deadline <= clock_.Monotonic()) {
    return Fail(request,
                absl::DeadlineExceededError("the request's deadline passed before it could start"));
  }
  const absl::Status status =
      request.is_private() ? AdmitPrivate(request) : AdmitToSession(request);
  if (!status.ok()) Fail(request, status);
}

absl::Status EngineCore::AdmitToSession(Request& request) {
  GMA_ASSIGN_OR_RETURN(Session* const session,
                       table_.Find(request.owner, *request.session_id, clock_.Monotonic()));
  if (request.n != 1) {
    return absl::InvalidArgumentError(absl::StrCat("n is ", request.n, ", must be 1 on a session"));
  }
  GMA_ASSIGN_OR_RETURN(const bool joined, JoinTurn(request, *session));
  if (joined) return absl::OkStatus();
  auto busy = turns_.find(session->number());
  if (busy != turns_.end() && busy->second.active->generates && busy->second.active->unread() &&
      !busy->second.active->detached) {
    Cancel(*busy->second.active, /*by_client=*/false);  // of which the message is on its way
    busy = turns_.find(session->number());
  }
  if (busy != turns_.end() && busy->second.active->detached) {
    Request& detached = *busy->second.active;
    const bool behind = request.after.value_or(INT64_MAX) > session->last_sequence();
    if (detached.recovered && (behind || !busy->second.waiting.empty())) {
      CatchUp(detached, request.after);
      WaitForTurn(request, *session);
      return absl::OkStatus();
    }
    GMA_RETURN_IF_ERROR(CheckAfter(request, *session, doubtful_));
    request.after.reset();  // the end of the turn, which nobody has read, is the next event
    Cancel(detached, /*by_client=*/true);
    busy = turns_.end();
  }
  if (busy == turns_.end()) return BeginSessionTurn(request, *session);
  if (!request.wait_if_busy) return BusyError(*session);
  WaitForTurn(request, *session);
  return absl::OkStatus();
}

void EngineCore::WaitForTurn(Request& request, Session& session) {
  request.session = &session;
  request.state = RequestState::kWaitingForSession;
  turns_.at(session.number()).waiting.push_back(&request);
}

absl::Status EngineCore::BusyError(const Session& session) const {
  const bool detached = turns_.at(session.number()).active->detached;
  return absl::FailedPreconditionError(absl::StrCat(
      "session ", session.id().Hex(),
      detached ? " has an active turn whose reader is gone; resume it, or begin another turn"
               : " has an active turn; wait for its end or cancel it"));
}

absl::Status EngineCore::BeginSessionTurn(Request& request, Session& session) {
  // Nothing of the session or the queue is changed unless the turn can begin.
  GMA_RETURN_IF_ERROR(CheckAfter(request, session, doubtful_));
  if (request.rewind) return BeginRewind(request, session);
  const bool fresh = session.context_tokens() == 0;
  const std::vector<int32_t> input = TakeTokens(request.input, fresh);
  request.feed = session.TokensToFeed(request.input.close_tokens, input);
  if (request.feed.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "input is empty and session ", session.id().Hex(), " holds nothing to go on from"));
  }
  const bool new_input = !input.empty();
  if (!fresh) request.input.marks.clear();
  const TurnKind kind = request.generates ? TurnKind::kAnswer : TurnKind::kAppend;
  GMA_RETURN_IF_ERROR(JournalBegin(request, session, kind, new_input));
  StartTurn(request, session, kind, new_input);
  return absl::OkStatus();
}

void EngineCore::StartTurn(Request& request, Session& session, TurnKind kind, bool new_input) {
  request.state = RequestState::kQueued;
  request.session = &session;
  request.cached_tokens = session.fed();
  request.context_before = session.context_tokens();
  turns_[session.number()].active = &request;
  ++session.stored().version;
  BeginHistory(request, session);
  table_.BeginTurn(session, kind, new_input);
  request.candidates.push_back(MakeCandidate(request, 0, &session));
  request.live = 1;
  if (request.held_by == 0) EnterTurn(request, session);
}

void EngineCore::EnterTurn(Request& request, Session& session) {
  request.entered_turn = true;
  const std::vector<size_t> marks = std::exchange(request.input, {}).marks;
  if (session.context_tokens() == 0 && !request.rewind) StartFromPrefix(request, marks);
  if (request.generates) EnterRecorded(request);
  if (request.next < request.feed_end()) return;
  // Nothing to feed yet: an Append of one token to an empty session, or of what was found again; a
  // Rewind to a saved row.
  if (request.next == 0 && !request.feed.empty()) session.SetPending(request.feed.front());
  FinishAppend(request);
}

void EngineCore::BeginHistory(Request& request, Session& session) {
  session.set_turn_key(request.request_key);
  if (request.rewind) {
    histories_.erase(session.number());  // a Rewind has no events
    return;
  }
  request.delivered = session.last_sequence();
  request.history =
      std::make_shared<TurnHistory>(session.last_sequence() + 1, options_.resume_events);
  histories_[session.number()] = request.history;
}

absl::Status EngineCore::CheckQuota(const Owner& owner, int32_t rows) {
  absl::Status status = table_.CheckQuota(owner, rows);
  if (!status.ok()) metrics_.admission_rejected[RejectReasonLabel::kQuota]->Increment();
  return status;
}

absl::Status EngineCore::NoRowError() {
  metrics_.admission_rejected[RejectReasonLabel::kNoRow]->Increment();
  return RetryLater(absl::StrCat("all ", pool_->capacity(), " state rows are in use"),
                    shared_->retry_after_ms.load());
}

absl::Status EngineCore::AdmitPrivate(Request& request) {
  if (request.input.tokens.empty()) {
    return absl::InvalidArgumentError("input is empty and there is no session to go on from");
  }
  if (request.n < 1 || request.n > pool_->capacity()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "n is ", request.n, ", must be in [1, ", pool_->capacity(), "], the number of state rows"));
  }
  Owner& owner = table_.OwnerOf(request.owner);
  GMA_RETURN_IF_ERROR(CheckQuota(owner, request.n));
  if (!MakeRows(request.n)) return NoRowError();
  const absl::Duration now = clock_.Monotonic();
  request.feed = TakeTokens(request.input, /*fresh=*/true);
  request.candidates.reserve(static_cast<size_t>(request.n));
  for (int32_t i = 0; i < request.n; ++i) {
    GMA_ASSIGN_OR_RETURN(StateRow row, pool_->Acquire());
    std::unique_ptr<Session> session =
        table_.InsertPrivate(owner, std::move(row), now, PrivatePast());
    session->BeginTurn(TurnKind::kAnswer, /*new_input=*/true);
    request.candidates.push_back(MakeCandidate(request, i, session.get()));
    request.candidates.back().private_session = std::move(session);
    ++request.live;
  }
  StartFromPrefix(request, std::exchange(request.input, {}).marks);
  return absl::OkStatus();
}

Candidate EngineCore::MakeCandidate(const Request& request, int32_t index, Session* session) {
  Candidate candidate;
  candidate.index = index;
  candidate.turn = next_turn_++;
  candidate.session = session;
  if (!request.generates) return candidate;
  SamplingParams sampling = request.sampling;
  sampling.seed += static_cast<uint64_t>(index);
  candidate.sampler.emplace(std::move(sampling), request.stop.min_tokens,
                            request.stop.ignore_eos ? std::vector<int32_t>() : options_.end_tokens,
                            decoder_.vocab_size());
  candidate.sampler->ObservePrompt(request.feed);
  candidate.judge.emplace(request.stop, options_.end_tokens);
  return candidate;
}

}  // namespace gma
