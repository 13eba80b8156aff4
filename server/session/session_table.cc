#include "server/session/session_table.h"

#include <algorithm>
#include <array>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace gma {
namespace {

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(absl::ToInt64Seconds(duration), " s");
}

absl::Status EndedError(const EndedSession& ended, absl::Duration now) {
  const std::string id = ended.id.Hex(), ago = Seconds(now - ended.ended_at);
  switch (ended.end) {
    case SessionEnd::kClosed:
      return absl::NotFoundError(absl::StrCat("session ", id, " was closed ", ago, " ago"));
    case SessionEnd::kExpired:
      return absl::NotFoundError(absl::StrCat("session ", id, " expired ", ago,
                                              " ago: it was idle for ", Seconds(ended.ttl)));
    case SessionEnd::kLost:
      return absl::DataLossError(
          absl::StrCat("session ", id, " lost its state in a failed step ", ago, " ago"));
    case SessionEnd::kMoved:
      return absl::AbortedError(
          absl::StrCat("session ", id, " moved to another server ", ago, " ago"));
  }
  return absl::NotFoundError(absl::StrCat("session ", id, " is unknown"));
}

}  // namespace

SessionTable::SessionTable(const SessionTableOptions& options) : options_(options) {
  checkpoints_.reserve = [this](size_t bytes) { return ReserveMemory(bytes); };
}

Owner& SessionTable::OwnerOf(std::string_view name) {
  auto it = owners_.find(name);
  if (it == owners_.end()) {
    it = owners_.try_emplace(std::string(name)).first;
    it->second.name = it->first;
    it->second.number = static_cast<uint32_t>(owners_.size() - 1);
  }
  return it->second;
}

absl::Status SessionTable::CheckQuota(const Owner& owner, int32_t sessions) const {
  if (owner.held + sessions <= options_.max_sessions_per_owner) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the caller holds ", owner.held,
                                                   " sessions and asks for ", sessions, ", limit ",
                                                   options_.max_sessions_per_owner));
}

Session& SessionTable::Add(Owner& owner, std::unique_ptr<Session> session) {
  Session& added = *session;
  GMA_CHECK(owner.sessions.try_emplace(added.id(), std::move(session)).second);
  expiry_[KeyOf(added)] = &added;
  Enlist(added);
  ++owner.held;
  ++CountOf(added.tier());
  return added;
}

Session& SessionTable::Insert(Owner& owner, StateRow row, absl::Duration ttl, absl::Duration now) {
  GMA_CHECK(row.holds());
  return Add(owner,
             std::make_unique<Session>(owner, options_.new_id(), next_number_++, std::move(row),
                                       ttl, now, SessionPast(options_.past, &checkpoints_)));
}

Session& SessionTable::InsertParked(Owner& owner, const SessionId& id,
                                    std::shared_ptr<const RowBytes> row, absl::Duration ttl,
                                    absl::Duration now) {
  parked_bytes_ += static_cast<int64_t>(row->size());
  auto session = std::make_unique<Session>(owner, id, next_number_++, StateRow(), ttl, now,
                                           SessionPast(options_.past, &checkpoints_));
  session->Park(std::move(row));
  const auto sleeping = owner.sleeping.find(id);
  if (sleeping != owner.sleeping.end()) {
    session->SetTimes(sleeping->second.opened_at, sleeping->second.idle_since);
    ForgetSleeping(owner, id);
  }
  return Add(owner, std::move(session));
}

Session& SessionTable::InsertFork(const Session& source, StateRow row, absl::Duration now) {
  Session& fork = Insert(source.owner(), std::move(row), source.ttl(), now);
  fork.ContinueFrom(source);
  return fork;
}

std::unique_ptr<Session> SessionTable::InsertPrivate(Owner& owner, StateRow row, absl::Duration now,
                                                     SessionPast past) {
  GMA_CHECK(row.holds());
  ++owner.held;
  ++private_count_;
  // Nobody ever looks for it, so it needs no random name.
  return std::make_unique<Session>(owner, SessionId(std::array<uint64_t, 2>{}), next_number_++,
                                   std::move(row), absl::InfiniteDuration(), now, std::move(past));
}

void SessionTable::ErasePrivate(std::unique_ptr<Session> session) {
  --session->owner().held;
  --private_count_;
}

absl::StatusOr<Session*> SessionTable::Find(std::string_view owner, const SessionId& id,
                                            absl::Duration now) {
  Owner& record = OwnerOf(owner);
  const auto it = record.sessions.find(id);
  if (it != record.sessions.end()) return it->second.get();
  if (record.sleeping.contains(id)) {
    return absl::UnavailableError(absl::StrCat("session ", id.Hex(), " is on disk"));
  }
  const EndedSession* const ended = LastEnd(record, id);
  if (ended != nullptr) return EndedError(*ended, now);
  return absl::NotFoundError(absl::StrCat("session ", id.Hex(), " is unknown"));
}

Session* SessionTable::Peek(std::string_view owner, const SessionId& id) {
  Owner& record = OwnerOf(owner);
  const auto it = record.sessions.find(id);
  return it == record.sessions.end() ? nullptr : it->second.get();
}

SleepingSession* SessionTable::PeekSleeping(std::string_view owner, const SessionId& id) {
  Owner& record = OwnerOf(owner);
  const auto it = record.sleeping.find(id);
  return it == record.sleeping.end() ? nullptr : &it->second;
}

bool SessionTable::RemembersEnd(std::string_view owner, const SessionId& id) {
  const EndedSession* const ended = LastEnd(OwnerOf(owner), id);
  return ended != nullptr && ended->end != SessionEnd::kMoved;
}

const EndedSession* SessionTable::LastEnd(const Owner& owner, const SessionId& id) {
  const auto found = std::find_if(owner.ended.rbegin(), owner.ended.rend(),
                                  [&](const EndedSession& ended) { return ended.id == id; });
  return found == owner.ended.rend() ? nullptr : &*found;
}

void SessionTable::Remember(Owner& owner, const EndedSession& ended) {
  if (owner.ended.size() == kRememberedEnds) owner.ended.pop_front();
  owner.ended.push_back(ended);
}

void SessionTable::Remove(Session& session) {
  Owner& owner = session.owner();
  if (session.phase() == SessionPhase::kIdle) {
    expiry_.erase(KeyOf(session));
    Delist(session);
  }
  --owner.held;
  --CountOf(session.tier());
  owner.stored_bytes -= session.stored().bytes;
  if (session.tier() == SessionTier::kMemory) {
    parked_bytes_ -= static_cast<int64_t>(session.parked()->size());
  }
  GMA_CHECK(owner.sessions.erase(SessionId(session.id())) == 1);
}

void SessionTable::Erase(Session& session, SessionEnd end, absl::Duration now) {
  Remember(session.owner(),
           {.id = session.id(), .end = end, .ended_at = now, .ttl = session.ttl()});
  Remove(session);
}

void SessionTable::SetStoredBytes(Session& session, int64_t bytes) {
  session.owner().stored_bytes += bytes - session.stored().bytes;
  session.stored().bytes = bytes;
}

void SessionTable::Forget(Session& session) { Remove(session); }

void SessionTable::EraseSleeping(Owner& owner, const SessionId& id, SessionEnd end,
                                 absl::Duration now) {
  Remember(owner, {.id = id, .end = end, .ended_at = now, .ttl = owner.sleeping.at(id).ttl});
  ForgetSleeping(owner, id);
}

void SessionTable::ForgetSleeping(Owner& owner, const SessionId& id) {
  const auto it = owner.sleeping.find(id);
  GMA_CHECK(it != owner.sleeping.end());
  sleep_expiry_.erase(KeyOf(it->second));
  owner.stored_bytes -= it->second.bytes;
  owner.sleeping.erase(it);
  --owner.held;
  --CountOf(SessionTier::kDisk);
}

void SessionTable::BeginTurn(Session& session, TurnKind kind, bool new_input) {
  expiry_.erase(KeyOf(session));
  Delist(session);
  session.BeginTurn(kind, new_input);
}

void SessionTable::EndTurn(Session& session, absl::Duration now) {
  session.EndTurn(now);
  expiry_[KeyOf(session)] = &session;
  Enlist(session);
}

int64_t SessionTable::Expire(absl::Duration now,
                             absl::FunctionRef<void(const ExpiredSession&)> expired) {
  int64_t expired_count = 0;
  for (; !expiry_.empty() && expiry_.begin()->first.first <= now; ++expired_count) {
    Session& session = *expiry_.begin()->second;
    expired({.owner = session.owner(),
             .id = session.id(),
             .number = session.number(),
             .tier = session.tier(),
             .context_tokens = session.context_tokens(),
             .idle = now - session.idle_since(),
             .stored = session.stored().exists});
    Erase(session, SessionEnd::kExpired, now);
  }
  for (; !sleep_expiry_.empty() && sleep_expiry_.begin()->first.first <= now; ++expired_count) {
    const Sleeper sleeper = sleep_expiry_.begin()->second;
    const SleepingSession& session = sleeper.owner->sleeping.at(sleeper.id);
    expired({.owner = *sleeper.owner,
             .id = sleeper.id,
             .number = session.number,
             .tier = SessionTier::kDisk,
             .context_tokens = session.context_tokens,
             .idle = now - session.idle_since,
             .stored = true});
    EraseSleeping(*sleeper.owner, sleeper.id, SessionEnd::kExpired, now);
  }
  return expired_count;
}

absl::Duration SessionTable::NextExpiry() const {
  absl::Duration next = absl::InfiniteDuration();
  if (!expiry_.empty()) next = std::min(next, expiry_.begin()->first.first);
  if (!sleep_expiry_.empty()) next = std::min(next, sleep_expiry_.begin()->first.first);
  return next;
}

std::vector<const Session*> SessionTable::List(std::string_view owner,
                                               const std::optional<SessionId>& after,
                                               int32_t limit) {
  const auto& sessions = OwnerOf(owner).sessions;
  auto it = after ? sessions.upper_bound(*after) : sessions.begin();
  std::vector<const Session*> listed;
  for (; it != sessions.end() && static_cast<int32_t>(listed.size()) < limit; ++it) {
    listed.push_back(it->second.get());
  }
  return listed;
}

void SessionTable::ForEach(absl::FunctionRef<void(const Session&)> visit) const {
  for (const auto& [name, owner] : owners_) {
    for (const auto& [id, session] : owner.sessions) visit(*session);
  }
}

void SessionTable::ForEachOwner(absl::FunctionRef<void(const Owner&)> visit) const {
  for (const auto& [name, owner] : owners_) visit(owner);
}

}  // namespace gma
