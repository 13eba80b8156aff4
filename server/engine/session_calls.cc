// Calls on sessions: open, get, list, close; and their expiry.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_set.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/engine/engine_core.h"

namespace gma {
namespace {

EvictionLabel ExpiryOf(SessionTier tier) {
  switch (tier) {
    case SessionTier::kPool:
      return EvictionLabel::kPoolExpired;
    case SessionTier::kMemory:
      return EvictionLabel::kMemoryExpired;
    case SessionTier::kDisk:
      break;
  }
  return EvictionLabel::kDiskExpired;
}

// All that is known of a session that this server has not had.
SessionSnapshotInfo StoredInfo(const SessionId& id, const StoredEntry& entry, absl::Time now) {
  return {.id = id,
          .phase = SessionPhase::kIdle,
          .context_tokens = 0,
          .age = absl::ZeroDuration(),
          .idle = now - entry.saved_at,
          .ttl = entry.ttl,
          .checkpoints = 0,
          .checkpoint_bytes = 0,
          .oldest_rewind = 0,
          .tier = SessionTier::kDisk};
}

}  // namespace

void EngineCore::OnMessage(OpenMessage message) {
  absl::StatusOr<Session*> session = Open(message);
  if (!session.ok()) return message.done(session.status());
  const SessionSnapshotInfo info = InfoOf(**session);
  JournalOpen(**session,
              [done = std::move(message.done), info](const absl::Status& status) mutable {
                status.ok() ? done(info) : done(status);
              });
}

absl::StatusOr<Session*> EngineCore::Open(const OpenMessage& message) {
  const OpenSpec& spec = message.spec;
  Owner& owner = table_.OwnerOf(spec.owner);
  GMA_RETURN_IF_ERROR(CheckQuota(owner, 1));
  if (journals()) GMA_RETURN_IF_ERROR(CheckStoreQuota(owner, kLeastStoredBytes));
  if (!MakeRows(1)) return NoRowError();
  GMA_ASSIGN_OR_RETURN(StateRow row, pool_->Acquire());
  const absl::Duration ttl = spec.ttl == absl::ZeroDuration() ? options_.default_ttl : spec.ttl;
  Session& session = table_.Insert(owner, std::move(row), ttl, clock_.Monotonic());
  if (spec.pinned) table_.Pin(session, true);
  GMA_LOG(kInfo, "session_opened",
          {{"session", session.id().Short()},
           {"ttl_seconds", absl::ToInt64Seconds(ttl)},
           {"rows_used", pool_->used()}});
  return &session;
}

void EngineCore::OnMessage(GetMessage message) {
  const SleepingSession* const sleeping = table_.PeekSleeping(message.owner, message.id);
  if (sleeping != nullptr) return message.done(InfoOf(message.id, *sleeping));
  absl::StatusOr<Session*> session = table_.Find(message.owner, message.id, clock_.Monotonic());
  if (!session.ok()) return message.done(session.status());
  message.done(InfoOf(**session));
}

void EngineCore::OnMessage(ListMessage message) {
  if (keeper_ == nullptr) return message.done(List(message));
  if (message.after && message.stored_after.empty()) message.stored_after = message.after->Hex();
  std::string owner = message.owner, after = message.stored_after;
  const int32_t limit = message.limit;
  keeper_->List(std::move(owner), std::move(after), limit,
                [this, message = std::move(message)](
                    absl::StatusOr<std::vector<StoredEntry>> listed) mutable {
                  if (!listed.ok()) return message.done(listed.status());
                  const auto full = static_cast<size_t>(message.limit);
                  const bool more = listed->size() == full;
                  if (more) message.stored_after = listed->back().id;
                  for (StoredEntry& entry : *listed) {
                    // One that was closed here may still be in the store for a moment.
                    const absl::StatusOr<SessionId> id = SessionId::FromHex(entry.id);
                    if (!id.ok() || table_.RemembersEnd(message.owner, *id)) continue;
                    message.stored.push_back(std::move(entry));
                  }
                  if (more && message.stored.size() < full) return OnMessage(std::move(message));
                  message.done(List(message));
                });
}

std::vector<SessionSnapshotInfo> EngineCore::List(const ListMessage& message) {
  std::vector<SessionSnapshotInfo> infos;
  absl::flat_hash_set<SessionId> awake;
  for (const Session* session : table_.List(message.owner, message.after, message.limit)) {
    infos.push_back(InfoOf(*session));
    awake.insert(session->id());
  }
  for (const StoredEntry& entry : message.stored) {
    const SessionId id = *SessionId::FromHex(entry.id);
    if (awake.contains(id)) continue;
    const SleepingSession* const sleeping = table_.PeekSleeping(message.owner, id);
    infos.push_back(sleeping != nullptr ? InfoOf(id, *sleeping)
                                        : StoredInfo(id, entry, clock_.Now()));
  }
  absl::c_sort(infos, [](const auto& a, const auto& b) { return a.id < b.id; });
  const auto count = std::min(infos.size(), static_cast<size_t>(message.limit));
  infos.erase(infos.begin() + static_cast<int64_t>(count), infos.end());
  return infos;
}

void EngineCore::OnMessage(CloseMessage message) {
  const SleepingSession* const sleeping = table_.PeekSleeping(message.owner, message.id);
  if (sleeping != nullptr) {
    const SessionSnapshotInfo info = InfoOf(message.id, *sleeping);
    keeper_->Remove({.owner = message.owner, .id = message.id}, sleeping->epoch);
    table_.EraseSleeping(table_.OwnerOf(message.owner), message.id, SessionEnd::kClosed,
                         clock_.Monotonic());
    return message.done(info);
  }
  absl::StatusOr<Session*> session = table_.Find(message.owner, message.id, clock_.Monotonic());
  if (!session.ok()) return message.done(session.status());
  const SessionSnapshotInfo info = InfoOf(**session);
  EndSession(**session, SessionEnd::kClosed, absl::CancelledError("the session was closed"));
  GMA_LOG(kInfo, "session_closed",
          {{"session", info.id.Short()},
           {"context_tokens", info.context_tokens},
           {"age_seconds", absl::ToDoubleSeconds(info.age)},
           {"rows_used", pool_->used()}});
  message.done(info);
}

SessionSnapshotInfo EngineCore::InfoOf(const Session& session) const {
  const absl::Duration now = clock_.Monotonic();
  const bool idle = session.phase() == SessionPhase::kIdle;
  const SessionPast& past = session.past();
  const auto turn = turns_.find(session.number());
  return {.id = session.id(),
          .phase = session.phase(),
          .context_tokens = session.context_tokens(),
          .age = now - session.opened_at(),
          .idle = idle ? now - session.idle_since() : absl::ZeroDuration(),
          .ttl = session.ttl(),
          .checkpoints = static_cast<int64_t>(past.ring().all().size()),
          .checkpoint_bytes = static_cast<int64_t>(past.ring().bytes()),
          .oldest_rewind = past.OldestRewind(session.context_tokens()),
          .last_sequence = session.last_sequence(),
          .turn_active = turn != turns_.end(),
          .detached = turn != turns_.end() && turn->second.active->detached,
          .tier = session.tier(),
          .pinned = session.pinned()};
}

void EngineCore::ExpireSessions(absl::Duration now) {
  const int64_t expired = table_.Expire(now, [&](const ExpiredSession& session) {
    histories_.erase(session.number);
    metrics_.session_evictions[ExpiryOf(session.tier)]->Increment();
    GMA_LOG(kInfo, "session_expired",
            {{"session", session.id.Short()},
             {"context_tokens", session.context_tokens},
             {"idle_seconds", absl::ToDoubleSeconds(session.idle)}});
  });
  if (expired > 0) ended_some_ = true;
}

}  // namespace gma
