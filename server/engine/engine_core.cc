#include "server/engine/engine_core.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/log.h"

namespace gma {

EngineState::EngineState(const EngineOptions& options, CompiledDecoder& decoder,
                         TokenTextFunction token_text, const Clock& clock, Metrics& metrics,
                         std::unique_ptr<StatePool> pool, std::shared_ptr<EngineShared> shared,
                         Keeper* keeper)
    : options_(options),
      decoder_(decoder),
      token_text_(std::move(token_text)),
      clock_(clock),
      metrics_(metrics),
      pool_(std::move(pool)),
      shared_(std::move(shared)),
      keeper_(keeper),
      table_({.max_sessions_per_owner = options.max_sessions_per_owner,
              .past = options.past,
              .park_bytes = options.park_memory_bytes,
              .new_id = options.new_session_id}),
      prefixes_(options.prefix_bytes, pool_->row_bytes()),
      parked_row_bytes_(EncodedBytes(decoder.state_layout(), options.park_format)),
      logits_(static_cast<size_t>(options.max_batch_rows) *
              static_cast<size_t>(decoder.vocab_size())),
      answer_logits_(static_cast<size_t>(decoder.vocab_size())) {}

EngineCore::EngineCore(const EngineOptions& options, CompiledDecoder& decoder,
                       TokenTextFunction token_text, const Clock& clock, Metrics& metrics,
                       std::unique_ptr<StatePool> pool, std::shared_ptr<EngineShared> shared,
                       Keeper* keeper)
    : EngineStore(options, decoder, std::move(token_text), clock, metrics, std::move(pool),
                  std::move(shared), keeper) {
  metrics_.state_bytes_per_session->Set(static_cast<double>(pool_->row_bytes()));
  metrics_.state_pool_bytes->Set(static_cast<double>(pool_->total_bytes()));
  metrics_.session_capacity->Set(pool_->capacity());
  UpdateGauges();
}

bool EngineCore::Tick() {
  TakeMessages();
  const bool had_messages = !messages_.empty();
  messages_.clear();  // they hold streams and callbacks
  const absl::Duration now = clock_.Monotonic();
  const size_t waited = for_room_.size();
  DispatchWaiting();
  const bool dispatched = for_room_.size() != waited;
  EndOverdue(now);
  EndOverdueWaiting(now);
  ExpireSessions(now);
  if (keeper_ != nullptr) {
    SaveUnsaved(now);
    VerifyActive(now);
    JournalLongTurns(now);
    metrics_.store_lag->Set(absl::ToDoubleSeconds(StoreLag()));  // it grows by itself
  }
  BalanceMemory();
  const bool delivered = PumpReaders();
  const bool stepped = RunStep();
  const bool did_something = had_messages || dispatched || delivered || stepped || ended_some_;
  SweepEnded();
  if (did_something) {
    UpdateGauges();
    metrics_.FlushBatches();
  }
  return did_something;
}

void EngineCore::EndOverdue(absl::Duration now) {
  for (size_t i = 0; i < requests_.size(); ++i) {
    Request& request = *requests_[i];
    if (request.state == RequestState::kEnded) continue;
    if (request.stream != nullptr && request.stream->cancelled()) {
      Cancel(request, /*by_client=*/false);
    } else if (request.detached) {
      EndDetached(request, now);
    } else if (request.deadline <= now) {
      EndOverdue(request);
    }
  }
}

void EngineCore::EndOverdue(Request& request) {
  const absl::Status status = absl::DeadlineExceededError("the request's deadline has passed");
  if (request.generates) return LoseReader(request, status);
  if (request.request_key.empty() || !request.begun()) return Fail(request, status);
  // Half an Append could not be called again.
  request.deadline = absl::InfiniteDuration();
  std::exchange(request.done, [](const absl::StatusOr<SessionSnapshotInfo>&) {})(status);
}

void EngineCore::SweepEnded() {
  if (!ended_some_) return;
  std::erase_if(requests_, [](const std::unique_ptr<Request>& request) {
    return request->state == RequestState::kEnded;
  });
  ended_some_ = false;
}

absl::Duration EngineCore::NextTimer() const {
  absl::Duration next = std::min(table_.NextExpiry(), next_save_);
  if (keeper_ != nullptr && StoreLag() > absl::ZeroDuration()) {
    next = std::min(next, clock_.Monotonic() + absl::Seconds(1));
  }
  if (shares_store() && !turns_.empty()) next = std::min(next, next_verify_);
  if (journals() && !turns_.empty()) next = std::min(next, next_long_turns_);
  next = std::min(next, NextWaitingDeadline());
  for (const auto& request : requests_) next = std::min(next, request->deadline);
  return next;
}

void EngineCore::EndAll() {
  const absl::Status status = absl::UnavailableError("the server is shutting down");
  shutting_down_ = true;
  TakeMessages();
  messages_.clear();
  RefuseWaiting(status);
  // Those that wait for a session go first: else the end of a turn would begin the next one.
  for (const bool waiting : {true, false}) {
    for (size_t i = 0; i < requests_.size(); ++i) {
      Request& request = *requests_[i];
      if (request.state == RequestState::kEnded) continue;
      if (waiting && request.state != RequestState::kWaitingForSession) continue;
      // What is written down goes on elsewhere; of any other answer that is the end.
      const bool kept = keeper_ != nullptr && request.generates && request.history != nullptr;
      if (kept && !request.journaled) {
        Cancel(request, /*by_client=*/true);
      } else {
        Fail(request, status);
      }
    }
  }
  replays_.CloseAll(status);
  SweepEnded();
  UpdateGauges();
  metrics_.FlushBatches();
}

void EngineCore::UpdateGauges() {
  shared_->rows_used = pool_->used();
  const int64_t running = shared_->running.load();
  shared_->retry_after_ms =
      std::clamp(static_cast<int64_t>(1000 * mean_request_seconds_) / std::max<int64_t>(1, running),
                 int64_t{50}, int64_t{10'000});
  metrics_.num_requests_running->Set(static_cast<double>(running));
  metrics_.num_requests_waiting->Set(static_cast<double>(shared_->waiting.load()));
  metrics_.num_requests_paused->Set(static_cast<double>(paused_));
  metrics_.turns_detached->Set(static_cast<double>(detached_));
  for (const SessionTier tier : {SessionTier::kPool, SessionTier::kMemory, SessionTier::kDisk}) {
    metrics_.sessions[static_cast<TierLabel>(tier)]->Set(table_.count(tier));
  }
  if (keeper_ != nullptr) metrics_.store_bytes->Set(static_cast<double>(table_.stored_bytes()));
  metrics_.session_parked_bytes->Set(static_cast<double>(table_.parked_bytes()));
  metrics_.prefix_bytes->Set(static_cast<double>(prefixes_.bytes()));
  metrics_.session_checkpoints->Set(static_cast<double>(table_.checkpoints().count));
  metrics_.session_checkpoint_bytes->Set(static_cast<double>(table_.checkpoints().bytes));
  metrics_.state_rows[RowUseLabel::kSession]->Set(table_.count(SessionTier::kPool));
  metrics_.state_rows[RowUseLabel::kPrivate]->Set(table_.private_count());
  metrics_.state_rows[RowUseLabel::kFree]->Set(pool_->capacity() - pool_->used());
}

void EngineCore::CheckOwnership() const {
  std::vector<bool> held(static_cast<size_t>(pool_->capacity()));
  absl::flat_hash_map<const Owner*, int32_t> held_by;
  int64_t waiting = 0, running = 0;
  // The scheduler's promise, with every row there is as the largest number of runnable ones.
  const int64_t step_rows = std::min(options_.max_batch_rows, options_.max_step_tokens);
  const int64_t wait_bound = (pool_->capacity() + step_rows - 1) / step_rows + 1;
  const auto hold = [&](const Session& session) {
    ++held_by[&session.owner()];
    if (session.tier() == SessionTier::kMemory) return;
    const size_t row = static_cast<size_t>(session.row().index());
    GMA_CHECK(row < held.size() && !held[row]);
    held[row] = true;
  };
  table_.ForEach(hold);
  for (const auto& request : requests_) {
    for (const Candidate& candidate : request->candidates) {
      if (candidate.private_session != nullptr) hold(*candidate.private_session);
      GMA_CHECK(candidate.steps_waited <= wait_bound);
    }
    (request->state == RequestState::kRunning ? running : waiting) += 1;
  }
  GMA_CHECK(std::count(held.begin(), held.end(), true) == pool_->used());
  GMA_CHECK(table_.count(SessionTier::kPool) + table_.private_count() == pool_->used());
  table_.ForEachOwner([&](const Owner& owner) {
    GMA_CHECK(held_by[&owner] + static_cast<int32_t>(owner.sleeping.size()) == owner.held);
    GMA_CHECK(owner.held <= options_.max_sessions_per_owner);
  });
  CheckTiers();
  GMA_CHECK(shared_->running.load() == running);
  GMA_CHECK(shared_->waiting.load() >= waiting);  // some may be in the mailbox
}

}  // namespace gma
