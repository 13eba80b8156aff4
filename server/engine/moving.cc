// Sessions that go to the store: snapshots, and the way from memory to disk.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/engine/engine_store.h"

namespace gma {
namespace {

constexpr absl::Duration kRetry = absl::Seconds(1);  // of writes that failed
// What SaveAll waits for the store; the process has a watchdog besides.
constexpr absl::Duration kShutdownWait = absl::Minutes(10);

}  // namespace

void EngineStore::BalanceMemory() {
  if (keeper_ == nullptr || shutting_down_) return;
  // Some room is made before it is needed, so that who needs it does not have to wait.
  const int64_t limit = table_.park_limit(), row = static_cast<int64_t>(parked_row_bytes_);
  const int64_t mark = std::max<int64_t>(0, limit - std::max({limit / 8, row, wanted_bytes_}));
  if (clock_.Monotonic() < next_move_) return;
  if (table_.memory_bytes() <= mark) wanted_bytes_ = 0;
  Session* session = table_.LeastUsed(SessionTier::kMemory);
  // Checkpoints of sessions in the pool go to disk with their session.
  const bool checkpoints = wanted_bytes_ > 0 && session == nullptr;
  if (checkpoints && ParkOne(/*except=*/nullptr)) session = table_.LeastUsed(SessionTier::kMemory);
  while (session != nullptr && table_.memory_bytes() - leaving_bytes_ > mark) {
    Session* const next = table_.UsedAfter(*session);
    // One whose owner's quota is used up stays, and is in nobody else's way.
    const bool stays = moving_.contains(session->number());
    if (!stays && absl::IsUnavailable(BeginMove(*session))) return;
    session = next;
  }
}

absl::Status EngineStore::BeginMove(Session& session) {
  if (waking_.contains(Name(session.owner().name, session.id()))) return absl::OkStatus();
  GMA_RETURN_IF_ERROR(Save(session, nullptr));
  moving_.insert(session.number());
  leaving_bytes_ += static_cast<int64_t>(parked_row_bytes_);
  return absl::OkStatus();
}

int64_t EngineStore::SnapshotBytes(const Session& session) const {
  int64_t bytes = kLeastStoredBytes + static_cast<int64_t>(parked_row_bytes_);
  bytes += (session.past().log().end() - session.past().log().begin()) * 4;
  for (const Checkpoint& checkpoint : session.past().ring().all()) {
    if (checkpoint.kind != CheckpointKind::kAutomatic) {
      bytes += static_cast<int64_t>(parked_row_bytes_);
    }
  }
  return bytes;
}

absl::Status EngineStore::CheckStoreQuota(const Session& session, int64_t bytes) const {
  return CheckStoreQuota(session.owner(), bytes - session.stored().bytes);
}

absl::Status EngineStore::CheckStoreQuota(const Owner& owner, int64_t bytes) const {
  if (bytes <= 0 || owner.stored_bytes <= options_.owner_disk_bytes - bytes) {
    return absl::OkStatus();
  }
  metrics_.admission_rejected[RejectReasonLabel::kQuota]->Increment();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the caller's sessions take ", owner.stored_bytes, " bytes in the store and ", bytes,
      " more are asked for, limit ", options_.owner_disk_bytes, " bytes (--owner_disk_bytes)"));
}

SessionImage EngineStore::ImageOf(const Session& session) const {
  const auto history = histories_.find(session.number());
  return {.ttl = session.ttl(),
          .point = session.point(),
          .row = {},
          .sequence = session.last_sequence(),
          .turn_key = session.turn_key(),
          .last_turn_answers = session.last_turn_answers(),
          .journaled = session.stored().journaled,
          .last_turn = history == histories_.end() ? std::string() : history->second->Serialize(),
          .past = session.past().Image()};
}

absl::Status EngineStore::Save(Session& session, SavedCallback done) {
  const int64_t bytes = SnapshotBytes(session);
  GMA_RETURN_IF_ERROR(CheckStoreQuota(session, bytes));
  if (!keeper_->HasRoom(static_cast<size_t>(bytes))) {
    return absl::UnavailableError("the store does not keep up");
  }
  std::shared_ptr<const RowBytes> row = session.parked();
  if (row == nullptr) row = Encode(session);
  const absl::Duration idle = clock_.Monotonic() - session.idle_since();
  const Name name(session.owner().name, session.id());
  keeper_->Save({.name = {.owner = name.first, .id = name.second},
                 .epoch = session.stored().epoch,
                 .ttl = std::max(session.ttl() - idle, absl::Seconds(1)),
                 .image = ImageOf(session),
                 .row = std::move(row)},
                [this, name, number = session.number(), version = session.stored().version,
                 fed = session.fed(),
                 done = std::move(done)](const absl::StatusOr<Written>& written) mutable {
                  OnSaved(name, number, version, fed, written);
                  if (done != nullptr) done(written.status());
                });
  session.stored().exists = true;
  session.stored().needs_snapshot = false;
  return absl::OkStatus();
}

void EngineStore::OnSaved(const Name& name, uint64_t number, uint64_t version, int64_t fed,
                          const absl::StatusOr<Written>& written) {
  const bool moving = moving_.erase(number) > 0;
  if (moving) leaving_bytes_ -= static_cast<int64_t>(parked_row_bytes_);
  if (written.ok()) {
    metrics_.snapshot_save_time->Observe(absl::ToDoubleSeconds(written->took));
  }
  Session* const session = table_.Peek(name.first, name.second);
  if (session == nullptr || session->number() != number) return;
  if (!written.ok()) {
    if (written.status().code() == absl::StatusCode::kAborted) return OnMoved(*session);
    if (moving) next_move_ = clock_.Monotonic() + kRetry;
    return MarkUnsaved(*session);
  }
  StoredState& stored = session->stored();
  stored.saved = version;
  stored.fed_at_snapshot = fed;
  table_.SetStoredBytes(*session, written->bytes);
  if (!stored.needs_snapshot) unsaved_.erase(name);
  const bool sleeps = moving && session->tier() == SessionTier::kMemory &&
                      stored.version == version && !stored.needs_snapshot;
  if (!sleeps) return;
  histories_.erase(number);
  metrics_.session_evictions[EvictionLabel::kMemoryToDisk]->Increment();
  table_.Sleep(*session);
}

void EngineStore::MarkUnsaved(Session& session) {
  session.stored().needs_snapshot = true;
  const absl::Duration now = clock_.Monotonic();
  unsaved_.try_emplace(Name(session.owner().name, session.id()), now);
  next_save_ = std::min(next_save_, now + kRetry);
}

void EngineStore::SaveUnsaved(absl::Duration now) {
  if (now < next_save_) return;
  next_save_ = absl::InfiniteDuration();
  for (auto it = unsaved_.begin(); it != unsaved_.end();) {
    Session* const session = table_.Peek(it->first.first, it->first.second);
    if (session == nullptr || !session->stored().needs_snapshot) {
      unsaved_.erase(it++);
      continue;
    }
    next_save_ = now + kRetry;
    const bool may_be = session->phase() == SessionPhase::kIdle && !waking_.contains(it->first);
    if (may_be && absl::IsUnavailable(Save(*session, nullptr))) break;
    ++it;
  }
}

absl::Duration EngineStore::StoreLag() const {
  absl::Duration since = keeper_->OldestWrite();
  for (const auto& [name, unsaved] : unsaved_) since = std::min(since, unsaved);
  if (since == absl::InfiniteDuration()) return absl::ZeroDuration();
  return std::max(clock_.Monotonic() - since, absl::Nanoseconds(1));
}

void EngineStore::OnMoved(Session& session) {
  GMA_LOG(kWarning, "session_moved", {{"session", session.id().Short()}});
  EndSession(session, SessionEnd::kMoved, MovedError());
}

void EngineStore::SaveAll() {
  std::vector<std::pair<std::string, SessionId>> names;
  table_.ForEach([&](const Session& session) {
    const StoredState& stored = session.stored();
    // One whose last turn is to be run again stays as the journal has it.
    const auto waking = waking_.find(Name(session.owner().name, session.id()));
    if ((waking != waking_.end() && !waking->second.verifies) || stored.unfinished ||
        (stored.saved == stored.version && !stored.needs_snapshot))
      return;
    names.emplace_back(session.owner().name, session.id());
  });
  int64_t saved = 0;
  for (const auto& [owner, id] : names) {
    Session& session = *table_.Peek(owner, id);
    while (!keeper_->HasRoom(static_cast<size_t>(SnapshotBytes(session)))) {
      if (keeper_->Flush(absl::Milliseconds(5))) break;
    }
    if (const absl::Status asked = Save(session, nullptr); !asked.ok()) {
      GMA_LOG(kError, "session_not_saved",
              {{"session", id.Short()}, {"reason", std::string(asked.message())}});
      continue;
    }
    metrics_.session_evictions[EvictionLabel::kPoolToDisk]->Increment();
    ++saved;
  }
  const bool all = keeper_->Flush(kShutdownWait);
  GMA_LOG(kInfo, "sessions_saved", {{"sessions", saved}, {"of", names.size()}, {"all", all}});
}

}  // namespace gma
