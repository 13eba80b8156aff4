#include "tests/sim/sim_client.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/sim/sim_check.h"

namespace gma::testing {
namespace {

constexpr size_t kMostHistories = 1 << 16;  // that are followed of one session

bool LosesSession(const absl::Status& status) {
  return status.code() == absl::StatusCode::kDataLoss ||
         status.code() == absl::StatusCode::kUnavailable ||
         (status.code() == absl::StatusCode::kCancelled &&
          absl::StrContains(status.message(), "closed"));
}

}  // namespace

void SimSession::Resolve() {
  while (!turns.empty() && turns.front()->status) {
    const std::shared_ptr<SeenTurn> turn = turns.front();
    turns.pop_front();
    if (ended || unfollowed) continue;
    std::vector<History> next;
    for (const History& history : possible) {
      for (History& after : After(history, *turn)) next.push_back(std::move(after));
      // Many cuts one after the other: what may have come of them is not worth the memory.
      if (next.size() > kMostHistories) unfollowed = true;
      if (unfollowed) break;
    }
    SIM_EXPECT(!next.empty(),
               absl::StrCat("no history of the session leads to what a turn gave (",
                            turn->tokens.size(), " tokens, ", turn->status->ToString(), ")"));
    possible = std::move(next);
    if (LosesSession(*turn->status)) ended = true;
  }
}

SimStream::SimStream(std::shared_ptr<TokenStream> stream, const GenerateSpec& spec,
                     std::shared_ptr<SimSession> session, bool eager, int64_t step)
    : stream_(std::move(stream)),
      session_(std::move(session)),
      deadline_(spec.deadline),
      eager_(eager),
      last_event_step_(step) {
  for (int32_t i = 0; i < spec.n; ++i) {
    auto turn = std::make_shared<SeenTurn>();
    turn->close = spec.input.close_tokens;
    turn->input = spec.input.tokens;
    turn->sampling = spec.sampling;
    turn->sampling.seed += static_cast<uint64_t>(i);
    turn->stop = spec.stop;
    answers_.push_back(std::move(turn));
  }
  if (session_ != nullptr) session_->turns.push_back(answers_.front());
}

void SimStream::Read(absl::Duration now, int64_t step) {
  if (ended()) return;
  std::vector<StreamEvent> events;
  std::optional<absl::Status> closed = stream_->TakeAll(events);
  for (StreamEvent& event : events) OnEvent(event, step);
  if (!closed) return;
  status_ = std::move(closed);
  for (const auto& answer : answers_) answer->status = status_;
  CheckEnd(now);
}

void SimStream::OnEvent(StreamEvent& event, int64_t step) {
  last_event_step_ = step;
  if (std::holds_alternative<StartedEvent>(event)) {
    SIM_EXPECT(!started_, "a stream started twice");
    SIM_EXPECT(std::get<StartedEvent>(event).seed == answers_[0]->sampling.seed, "another seed");
    started_ = true;
  } else if (auto* token = std::get_if<TokenEvent>(&event)) {
    SIM_EXPECT(started_, "a token before Started");
    SeenTurn& answer = *answers_.at(static_cast<size_t>(token->candidate));
    SIM_EXPECT(!answer.finished, "a token after Finished");
    answer.tokens.push_back(token->sampled.token);
    answer.text += token->text;
  } else {
    auto& finished = std::get<FinishedEvent>(event);
    SeenTurn& answer = *answers_.at(static_cast<size_t>(finished.candidate));
    SIM_EXPECT(!answer.finished, "an answer finished twice");
    answer.text += finished.text;
    answer.finished = std::move(finished);
  }
}

void SimStream::CheckEnd(absl::Duration now) {
  const absl::StatusCode code = status_->code();
  if (status_->ok()) {
    for (const auto& answer : answers_) SIM_EXPECT(answer->finished, "OK without Finished");
  } else if (code == absl::StatusCode::kDeadlineExceeded) {
    SIM_EXPECT(now >= deadline_, "a deadline that has not passed");
  } else if (code == absl::StatusCode::kNotFound) {
    SIM_EXPECT(session_ != nullptr, "a private request found no session");
    SIM_EXPECT(
        session_->close_asked || session_->ended || now - session_->opened_at >= session_->ttl,
        "a session that should be there was not found");
    session_->ended = true;
  }
  if (session_ != nullptr) return session_->Resolve();
  // A private request starts from nothing; its answers are checked one by one. Refusals and lost
  // steps have nothing to check but what came before them.
  for (const auto& answer : answers_) {
    if (answer->tokens.empty() && !answer->finished) continue;
    SIM_EXPECT(code != absl::StatusCode::kResourceExhausted, "refused after it began");
    SeenTurn seen = *answer;
    if (!status_->ok()) {
      // The end of one answer by an error ends the others where they stand.
      seen.status = absl::CancelledError("cut");
      if (seen.finished) seen.status = absl::OkStatus();
    }
    SIM_EXPECT(!After(History(), seen).empty(),
               absl::StrCat("a private answer is not the chain of its prompt (",
                            answer->tokens.size(), " tokens, ", status_->ToString(), ")"));
  }
}

void SimStream::CheckPromises(absl::Duration now, int64_t step, int64_t wait_bound) const {
  if (ended() || !eager_) return;
  SIM_EXPECT(now < deadline_, "a request outlived its deadline by a tick");
  SIM_EXPECT(!cancelled_, "a cancelled request outlived a tick");
  const bool decoding = !answers_[0]->tokens.empty();
  SIM_EXPECT(!decoding || step - last_event_step_ <= wait_bound,
             absl::StrCat("a runnable answer waited ", step - last_event_step_, " steps, bound ",
                          wait_bound));
}

}  // namespace gma::testing
