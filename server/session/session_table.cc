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
  }
  return absl::NotFoundError(absl::StrCat("session ", id, " is unknown"));
}

}  // namespace

Owner& SessionTable::OwnerOf(std::string_view name) {
  auto it = owners_.find(name);
  if (it == owners_.end()) {
    it = owners_.try_emplace(std::string(name)).first;
    it->second.name = it->first;
    it->second.number = static_cast<uint32_t>(owners_.size() - 1);
  }
  return it->second;
}

absl::Status SessionTable::CheckQuota(const Owner& owner, int32_t rows) const {
  if (owner.rows + rows <= max_rows_per_owner_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the caller holds ", owner.rows,
                                                   " sessions and asks for ", rows, ", limit ",
                                                   max_rows_per_owner_));
}

Session& SessionTable::Insert(Owner& owner, StateRow row, absl::Duration ttl, absl::Duration now) {
  GMA_CHECK(row.holds());
  const SessionId id = SessionId::Random();
  auto session = std::make_unique<Session>(owner, id, next_number_++, std::move(row), ttl, now,
                                           SessionPast(past_, &checkpoints_));
  Session& inserted = *session;
  GMA_CHECK(owner.sessions.try_emplace(id, std::move(session)).second);
  expiry_[KeyOf(inserted)] = &inserted;
  ++owner.rows;
  ++session_count_;
  return inserted;
}

Session& SessionTable::InsertFork(const Session& source, StateRow row, absl::Duration now) {
  Session& fork = Insert(source.owner(), std::move(row), source.ttl(), now);
  fork.ContinueFrom(source);
  return fork;
}

std::unique_ptr<Session> SessionTable::InsertPrivate(Owner& owner, StateRow row,
                                                     absl::Duration now, SessionPast past) {
  GMA_CHECK(row.holds());
  ++owner.rows;
  ++private_count_;
  // Nobody ever looks for it, so it needs no random name.
  return std::make_unique<Session>(owner, SessionId(std::array<uint64_t, 2>{}), next_number_++,
                                   std::move(row), absl::InfiniteDuration(), now,
                                   std::move(past));
}

void SessionTable::ErasePrivate(std::unique_ptr<Session> session) {
  --session->owner().rows;
  --private_count_;
}

absl::StatusOr<Session*> SessionTable::Find(std::string_view owner, const SessionId& id,
                                            absl::Duration now) {
  Owner& record = OwnerOf(owner);
  const auto it = record.sessions.find(id);
  if (it != record.sessions.end()) return it->second.get();
  for (const EndedSession& ended : record.ended) {
    if (ended.id == id) return EndedError(ended, now);
  }
  return absl::NotFoundError(absl::StrCat("session ", id.Hex(), " is unknown"));
}

void SessionTable::Erase(Session& session, SessionEnd end, absl::Duration now) {
  Owner& owner = session.owner();
  if (session.phase() == SessionPhase::kIdle) expiry_.erase(KeyOf(session));
  if (owner.ended.size() == kRememberedEnds) owner.ended.pop_front();
  owner.ended.push_back({.id = session.id(), .end = end, .ended_at = now, .ttl = session.ttl()});
  --owner.rows;
  --session_count_;
  GMA_CHECK(owner.sessions.erase(SessionId(session.id())) == 1);
}

void SessionTable::BeginTurn(Session& session, TurnKind kind, bool new_input) {
  expiry_.erase(KeyOf(session));
  session.BeginTurn(kind, new_input);
}

void SessionTable::EndTurn(Session& session, absl::Duration now) {
  session.EndTurn(now);
  expiry_[KeyOf(session)] = &session;
}

int64_t SessionTable::Expire(absl::Duration now, absl::FunctionRef<void(const Session&)> expired) {
  int64_t count = 0;
  while (!expiry_.empty() && expiry_.begin()->first.first <= now) {
    Session& session = *expiry_.begin()->second;
    expired(session);
    Erase(session, SessionEnd::kExpired, now);
    ++count;
  }
  return count;
}

absl::Duration SessionTable::NextExpiry() const {
  return expiry_.empty() ? absl::InfiniteDuration() : expiry_.begin()->first.first;
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

}  // namespace gma
