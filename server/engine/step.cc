// One step: which rows could run, which do, and what comes of it.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "server/engine/engine_core.h"

namespace gma {
namespace {

// Whether a turn that is run again has drawn all that it drew before its end.
bool IsAtRecordedEnd(const Request& request) {
  return request.recorded_end && request.candidates.front().completion_tokens ==
                                     static_cast<int64_t>(request.recorded_end->drawn.size());
}

// Of input that entered it then, what was fed before it was cut.
int64_t TokensToRecordedEnd(const Request& request) {
  return request.recorded_end->context_after - request.session->context_tokens();
}

}  // namespace

bool EngineCore::RunStep() {
  BuildViews();
  if (views_.empty()) return false;
  PlanParts();
  const absl::Duration start = clock_.Monotonic();
  size_t wanted = 0;
  for (const StepPart& part : parts_) {
    MarkScheduled(*part.request, start);
    wanted += part.wants_logits ? 1 : 0;
  }
  // Before anybody can have a token: who has one is counted.
  shared_->rows_used = pool_->used();
  const size_t vocab = answer_logits_.size();
  const absl::Status status =
      decoder_.Step({.rows = step_rows_}, *pool_, absl::MakeSpan(logits_.data(), wanted * vocab));
  const absl::Duration now = clock_.Monotonic();
  ObserveStep(now - start);
  if (!status.ok()) {
    LoseStep(status);
    return true;
  }
  drawn_tokens_ = 0;
  size_t row = 0;
  for (const StepPart& part : parts_) {
    absl::Span<float> logits;
    if (part.wants_logits) logits = absl::MakeSpan(logits_.data() + row++ * vocab, vocab);
    // An answer of the same request may just have ended all of it.
    if (part.request->state != RequestState::kEnded) CommitPart(part, logits, now);
  }
  metrics_.generation_tokens->Increment(static_cast<double>(drawn_tokens_));
  return true;
}

void EngineCore::BuildViews() {
  views_.clear();
  view_parts_.clear();
  paused_ = 0;
  detached_ = 0;
  for (const auto& owned : requests_) {
    Request& request = *owned;
    if (request.state != RequestState::kQueued && request.state != RequestState::kRunning) continue;
    if (request.held_by != 0) {
      if (!request.candidates.empty()) request.candidates.front().steps_waited = 0;
      continue;
    }
    if (request.detached && !HasRoom(request, 1)) {
      ++detached_;
      request.candidates.front().steps_waited = 0;
      continue;
    }
    if (request.next < request.feed_end()) {
      // The last token of a prompt draws the first of each answer, so it waits for room; the ones
      // before it need none.
      const bool keeps = !request.keep_at.empty();
      const size_t end = keeps ? request.keep_at.front() : request.feed_end();
      int64_t tokens = static_cast<int64_t>(end - request.next);
      if (!keeps && request.generates && !HasRoom(request, request.n)) --tokens;
      if (IsAtRecordedEnd(request)) tokens = std::min(tokens, TokensToRecordedEnd(request));
      AddView(request, request.candidates.front(), tokens);
      if (tokens == 0) ++paused_;
      continue;
    }
    // Answers of one prompt go in step: a reader that is behind holds up its own request.
    const bool room = HasRoom(request, request.live);
    if (!room) ++paused_;
    for (Candidate& candidate : request.candidates) {
      if (candidate.session != nullptr) AddView(request, candidate, room ? 1 : 0);
    }
  }
}

void EngineCore::AddView(Request& request, Candidate& candidate, int64_t tokens) {
  if (tokens == 0) {
    candidate.steps_waited = 0;  // it was not runnable
    return;
  }
  views_.push_back({.turn = candidate.turn,
                    .owner = candidate.session->owner().number,
                    .decoding = candidate.decoding,
                    .tokens_to_feed = tokens,
                    .priority = request.priority,
                    .steps_waited = candidate.steps_waited});
  view_parts_.push_back({.request = &request, .candidate = &candidate});
}

void EngineCore::PlanParts() {
  const StepPlan plan = PlanStep(
      views_,
      {.max_batch_rows = options_.max_batch_rows, .max_step_tokens = options_.max_step_tokens},
      fair_share_);
  GMA_CHECK(!plan.rows.empty());
  for (const StepPart& part : view_parts_) ++part.candidate->steps_waited;
  parts_.clear();
  step_rows_.clear();
  for (const PlannedRow& planned : plan.rows) {
    StepPart part = view_parts_[planned.view];
    Request& request = *part.request;
    Candidate& candidate = *part.candidate;
    candidate.steps_waited = 0;
    part.tokens = planned.tokens;
    const size_t count = static_cast<size_t>(planned.tokens);
    const absl::Span<const int32_t> tokens =
        candidate.decoding ? absl::MakeConstSpan(&candidate.decode_token, 1)
                           : absl::MakeConstSpan(request.feed).subspan(request.next, count);
    part.wants_logits =
        request.generates && (candidate.decoding || request.next + count == request.feed.size());
    // A row is fed by the session that leases it and by no other.
    GMA_CHECK(candidate.session->row().holds() && tokens.size() == count);
    parts_.push_back(part);
    step_rows_.push_back({.state_row = candidate.session->row().index(),
                          .tokens = tokens,
                          .want_logits = part.wants_logits});
  }
}

void EngineCore::MarkScheduled(Request& request, absl::Duration now) {
  if (request.state == RequestState::kRunning) return;
  request.state = RequestState::kRunning;
  request.scheduled_at = now;
  // In this order, so that nobody sees a moment in which it is neither.
  shared_->running.fetch_add(1);
  shared_->waiting.fetch_sub(1);
  if (!request.generates) return;
  metrics_.request_queue_time->Observe(absl::ToDoubleSeconds(now - request.accepted_at));
  metrics_.request_prompt_tokens->Observe(static_cast<double>(request.feed.size()));
  Emit(request, StartedEvent{.seed = request.sampling.seed});
  for (AppendedEvent& event : std::exchange(request.entered, {})) Emit(request, std::move(event));
}

void EngineCore::ObserveStep(absl::Duration took) {
  int64_t tokens = 0, prefill_tokens = 0;
  bool prefill = false, decode = false;
  for (const StepPart& part : parts_) {
    tokens += part.tokens;
    if (!part.candidate->decoding) prefill_tokens += part.tokens;
    (part.candidate->decoding ? decode : prefill) = true;
  }
  const PhaseLabel phase = prefill && decode ? PhaseLabel::kMixed
                           : decode          ? PhaseLabel::kDecode
                                             : PhaseLabel::kPrefill;
  metrics_.iteration_latency[static_cast<size_t>(phase)]->Observe(absl::ToDoubleSeconds(took));
  (decoder_.ran_graph() ? metrics_.executions_graph : metrics_.executions_eager)->Increment();
  metrics_.scheduled_batch_size->Observe(static_cast<double>(parts_.size()));
  metrics_.iteration_tokens->Observe(static_cast<double>(tokens));
  metrics_.prompt_tokens->Increment(static_cast<double>(prefill_tokens));
}

void EngineCore::CommitPart(const StepPart& part, absl::Span<float> logits, absl::Duration now) {
  Request& request = *part.request;
  Candidate& candidate = *part.candidate;
  if (candidate.decoding) {
    candidate.session->Advance(absl::MakeConstSpan(&candidate.decode_token, 1), std::nullopt);
    candidate.session->KeepAutomaticWhenDue();
    return Draw(request, candidate, logits, now);
  }
  const absl::Span<const int32_t> fed =
      absl::MakeConstSpan(request.feed).subspan(request.next, static_cast<size_t>(part.tokens));
  request.next += fed.size();
  const bool all = request.next == request.feed.size();
  candidate.session->Advance(
      fed, all ? std::nullopt : std::optional<int32_t>(request.feed[request.next]));
  candidate.session->KeepAutomaticWhenDue();
  if (!request.keep_at.empty() && request.next == request.keep_at.front()) {
    request.keep_at.pop_front();
    KeepPrefix(request, *candidate.session);
  }
  if (!request.generates) {
    if (request.next == request.feed_end()) FinishAppend(request);
    return;
  }
  if (IsAtRecordedEnd(request) && TokensToRecordedEnd(request) <= 0) {
    return FinishCandidate(request, candidate, request.recorded_end->reason);
  }
  if (!all) return;
  if (request.context_before == 0) KeepPrefix(request, *candidate.session);
  ForkPrompt(request);
  for (Candidate& answer : request.candidates) {
    if (request.state == RequestState::kEnded) return;
    // Drawing uses the logits as scratch, and every answer needs the model's.
    std::copy(logits.begin(), logits.end(), answer_logits_.begin());
    Draw(request, answer, absl::MakeSpan(answer_logits_), now);
  }
}

void EngineCore::ForkPrompt(Request& request) {
  const Candidate& first = request.candidates.front();
  for (Candidate& candidate : request.candidates) {
    candidate.decoding = true;
    if (&candidate == &first) continue;
    candidate.session->row().CopyFrom(first.session->row());
    candidate.session->Advance(request.feed, std::nullopt);
  }
}

void EngineCore::Draw(Request& request, Candidate& candidate, absl::Span<float> logits,
                      absl::Duration now) {
  Session& session = *candidate.session;
  absl::StatusOr<SampledToken> sampled =
      candidate.sampler->Sample(logits, static_cast<uint64_t>(session.fed()));
  if (!sampled.ok()) {
    metrics_.state_nonfinite->Increment();
    return Fail(request, sampled.status());
  }
  const int32_t token = sampled->token;
  session.Draw(token);
  if (request.journaled) request.drawn.push_back(token);
  candidate.decode_token = token;
  ++drawn_tokens_;
  if (candidate.completion_tokens++ == 0) {
    candidate.first_token_at = now;
    metrics_.time_to_first_token->Observe(absl::ToDoubleSeconds(now - request.accepted_at));
    metrics_.request_prefill_time->Observe(absl::ToDoubleSeconds(now - request.scheduled_at));
  } else {
    metrics_.inter_token_latency->Observe(absl::ToDoubleSeconds(now - candidate.last_token_at));
  }
  candidate.last_token_at = now;
  StopJudge::Verdict verdict = candidate.judge->Judge(token, token_text_(token));
  Emit(request, TokenEvent{.candidate = candidate.index,
                           .sampled = *std::move(sampled),
                           .text = std::move(verdict.text),
                           .logprobs = request.sampling.top_logprobs >= 0});
  if (!request.recorded.empty()) EnterRecorded(request);
  if (IsAtRecordedEnd(request) && TokensToRecordedEnd(request) <= 0) {
    FinishCandidate(request, candidate, request.recorded_end->reason);
  } else if (verdict.reason != FinishReason::kNone) {
    FinishCandidate(request, candidate, verdict.reason);
  }
}

void EngineCore::LoseStep(const absl::Status& error) {
  metrics_.step_failures->Increment();
  GMA_LOG(kError, "step_failed",
          {{"rows", parts_.size()}, {"error", std::string(error.message())}});
  const absl::Status lost =
      absl::DataLossError("a step of the decoder failed and the session's state was lost");
  for (const StepPart& part : parts_) {
    Request& request = *part.request;
    if (request.state == RequestState::kEnded) continue;
    if (request.is_private()) {
      Fail(request, lost);
    } else {
      EndSession(*request.session, SessionEnd::kLost, lost);
    }
  }
}

}  // namespace gma
