// Sessions that come from the store: asked for, opened, back in memory.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/engine/engine_store.h"
#include "server/engine/retry_hint.h"

namespace gma {

void EngineStore::BeginWaking(EngineMessage& message, const SessionAddress& address) {
  // Room for its row is kept from here on.
  if (!table_.ReserveMemory(parked_row_bytes_)) return WaitForRoom(message);
  table_.HoldMemory(static_cast<int64_t>(parked_row_bytes_));
  const Name name(address.owner, address.id);
  Waking& waking = waking_[name];
  waking.since = clock_.Monotonic();
  waking.messages.push_back(std::move(message));
  keeper_->Claim({.owner = name.first, .id = name.second},
                 [this, name](absl::StatusOr<ClaimedSession> claimed) {
                   OnClaimed(name, std::move(claimed));
                 });
}

void EngineStore::OnClaimed(const Name& name, absl::StatusOr<ClaimedSession> claimed) {
  table_.HoldMemory(-static_cast<int64_t>(parked_row_bytes_));
  const absl::Status fits = claimed.ok() ? CheckFits(name, *claimed) : absl::OkStatus();
  if (!fits.ok()) return EndWaking(name, fits);
  if (claimed.ok()) return Recover(name, *std::move(claimed));
  absl::Status status = claimed.status();
  if (status.code() == absl::StatusCode::kNotFound) {
    const bool expired = absl::StrContains(status.message(), "expired");
    const bool slept = table_.PeekSleeping(name.first, name.second) != nullptr;
    if (slept) {
      // It expired there, or another server has closed it.
      table_.EraseSleeping(table_.OwnerOf(name.first), name.second,
                           expired ? SessionEnd::kExpired : SessionEnd::kClosed,
                           clock_.Monotonic());
    }
    if (!expired) {
      status = table_.Find(name.first, name.second, clock_.Monotonic()).status();
    }
    if (absl::IsAborted(status)) {
      status = absl::NotFoundError(absl::StrCat("session ", name.second.Hex(),
                                                " moved to another server and was closed there"));
    }
  }
  EndWaking(name, status);
}

absl::Status EngineStore::CheckFits(const Name& name, const ClaimedSession& claimed) {
  if (table_.PeekSleeping(name.first, name.second) == nullptr) {
    GMA_RETURN_IF_ERROR(table_.CheckQuota(table_.OwnerOf(name.first), 1));
  }
  size_t bytes = parked_row_bytes_;
  if (claimed.image) {
    for (const CheckpointImage& checkpoint : claimed.image->past.checkpoints) {
      bytes += checkpoint.row->size();
    }
  }
  if (table_.ReserveMemory(bytes)) return absl::OkStatus();
  wanted_bytes_ = std::max(wanted_bytes_, static_cast<int64_t>(bytes));
  return RetryLater(
      absl::StrCat("the session and its checkpoints take ", bytes,
                   " bytes of memory for parked sessions, which has ", table_.memory_bytes(),
                   " in use, limit ", table_.park_limit(), " (--park_memory_bytes)"),
      shared_->retry_after_ms.load());
}

Session& EngineStore::Restore(const Name& name, ClaimedSession& claimed) {
  Owner& owner = table_.OwnerOf(name.first);
  const StateLayout& layout = decoder_.state_layout();
  std::shared_ptr<const RowBytes> row;
  if (!claimed.image) {
    row = std::make_shared<const RowBytes>(parked_row_bytes_);  // of zero bytes, in any encoding
  } else if (options_.park_format == RowEncoding::kFloat32) {
    row = std::make_shared<const RowBytes>(std::move(claimed.image->row));
  } else {
    row = std::make_shared<const RowBytes>(
        EncodeRow(layout, claimed.image->row, options_.park_format));
  }
  Session& session =
      table_.InsertParked(owner, name.second, std::move(row),
                          claimed.image ? claimed.image->ttl : claimed.ttl, clock_.Monotonic());
  if (claimed.image) {
    session.Restore(claimed.image->point, std::move(claimed.image->past));
    session.set_last_sequence(claimed.image->sequence);
    session.set_turn_key(std::move(claimed.image->turn_key));
    auto last_turn = TurnHistory::Parse(claimed.image->last_turn, options_.resume_events);
    if (last_turn != nullptr) histories_[session.number()] = std::move(last_turn);
    session.set_last_turn_answers(claimed.image->last_turn_answers);
  }
  StoredState& stored = session.stored();
  stored.epoch = claimed.epoch;
  stored.journaled = claimed.journaled;
  stored.exists = true;
  stored.fed_at_snapshot = session.fed();
  table_.SetStoredBytes(session, claimed.bytes);
  return session;
}

void EngineStore::EndWaking(const Name& name, const absl::Status& status) {
  const auto it = waking_.find(name);
  GMA_CHECK(it != waking_.end());
  Waking waking = std::move(it->second);
  waking_.erase(it);
  recoveries_.erase(name);
  if (status.ok()) {
    const double seconds = absl::ToDoubleSeconds(clock_.Monotonic() - waking.since);
    metrics_.session_restore_time[1]->Observe(seconds);
    GMA_LOG(kInfo, "session_restored", {{"session", name.second.Short()}, {"seconds", seconds}});
  } else if (Session* const session = table_.Peek(name.first, name.second); session != nullptr) {
    // It stays in the store; the next call asks for it again.
    const bool lost = session->phase() != SessionPhase::kIdle;
    GMA_CHECK(!lost);
    histories_.erase(session->number());
    table_.Forget(*session);
  }
  if (status.ok()) woken_ = name;
  for (EngineMessage& message : waking.messages) {
    if (status.ok()) {
      Dispatch(message);
    } else {
      Refuse(message, status);
    }
  }
  woken_.reset();
}

SessionSnapshotInfo EngineStore::InfoOf(const SessionId& id, const SleepingSession& session) const {
  const absl::Duration now = clock_.Monotonic();
  return {.id = id,
          .phase = SessionPhase::kIdle,
          .context_tokens = session.context_tokens,
          .age = now - session.opened_at,
          .idle = now - session.idle_since,
          .ttl = session.ttl,
          .checkpoints = 0,
          .checkpoint_bytes = 0,
          .oldest_rewind = session.context_tokens,
          .last_sequence = session.last_sequence,
          .tier = SessionTier::kDisk};
}

}  // namespace gma
