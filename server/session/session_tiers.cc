// The order in which sessions were used, and what they take in each tier.
#include <utility>

#include "base/check.h"
#include "server/session/session_table.h"

namespace gma {

void SessionTable::Enlist(Session& session) {
  session.used_ = next_use_++;
  automatic_[session.used_] = &session;
  if (!session.pinned()) idle(session.tier())[session.used_] = &session;
}

void SessionTable::Delist(Session& session) {
  automatic_.erase(session.used_);
  idle(session.tier()).erase(session.used_);
}

void SessionTable::Use(Session& session) {
  GMA_CHECK(session.phase() == SessionPhase::kIdle);
  Delist(session);
  Enlist(session);
}

Session* SessionTable::LeastUsed(SessionTier tier, const Session* except) const {
  for (const auto& [used, session] : idle_[static_cast<size_t>(tier)]) {
    if (session != except) return session;
  }
  return nullptr;
}

Session* SessionTable::UsedAfter(const Session& session) const {
  const auto& order = idle_[static_cast<size_t>(session.tier())];
  const auto next = order.upper_bound(session.used_);
  return next == order.end() ? nullptr : next->second;
}

void SessionTable::Pin(Session& session, bool pinned) {
  GMA_CHECK(session.tier() == SessionTier::kPool);
  const bool is_idle = session.phase() == SessionPhase::kIdle;
  if (is_idle) Delist(session);
  session.pinned_ = pinned;
  if (is_idle) Enlist(session);
}

void SessionTable::Park(Session& session, std::shared_ptr<const RowBytes> encoded) {
  GMA_CHECK(session.tier() == SessionTier::kPool && !session.pinned());
  parked_bytes_ += static_cast<int64_t>(encoded->size());
  // It keeps its place in the order of use: being parked is none.
  idle(SessionTier::kPool).erase(session.used_);
  --CountOf(SessionTier::kPool);
  session.Park(std::move(encoded));
  ++CountOf(SessionTier::kMemory);
  idle(SessionTier::kMemory)[session.used_] = &session;
}

void SessionTable::Wake(Session& session, StateRow row) {
  GMA_CHECK(session.tier() == SessionTier::kMemory);
  Delist(session);
  parked_bytes_ -= static_cast<int64_t>(session.parked()->size());
  --CountOf(SessionTier::kMemory);
  session.Wake(std::move(row));
  ++CountOf(SessionTier::kPool);
  Enlist(session);
}

void SessionTable::Sleep(Session& session) {
  GMA_CHECK(session.tier() == SessionTier::kMemory);
  Owner& owner = session.owner();
  const SessionId id = session.id();
  const SleepingSession sleeping = {.number = session.number(),
                                    .opened_at = session.opened_at(),
                                    .idle_since = session.idle_since(),
                                    .ttl = session.ttl(),
                                    .context_tokens = session.context_tokens(),
                                    .last_sequence = session.last_sequence(),
                                    .epoch = session.stored().epoch,
                                    .bytes = session.stored().bytes};
  Remove(session);
  owner.sleeping.emplace(id, sleeping);
  sleep_expiry_.emplace(KeyOf(sleeping), Sleeper{&owner, id});
  owner.stored_bytes += sleeping.bytes;
  ++owner.held;
  ++CountOf(SessionTier::kDisk);
}

bool SessionTable::ReserveMemory(size_t bytes) {
  const auto room = [&] {
    return memory_bytes() <= options_.park_bytes - static_cast<int64_t>(bytes);
  };
  while (!room() && !automatic_.empty()) {
    Session& session = *automatic_.begin()->second;
    automatic_.erase(automatic_.begin());
    session.DropAutomaticCheckpoints();
  }
  return room();
}

int64_t SessionTable::stored_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, owner] : owners_) bytes += owner.stored_bytes;
  return bytes;
}

void SessionTable::KeepAutomatic(Session& session) {
  session.KeepAutomatic();
  automatic_[session.used_] = &session;  // making room may have taken it off
}

}  // namespace gma
