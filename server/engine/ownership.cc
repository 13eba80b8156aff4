// Whether sessions are still this server's: where several share the store, another one may have
// claimed what this one holds in memory, and gone on with it.
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "server/engine/engine_store.h"

namespace gma {
namespace {

constexpr absl::Duration kVerifyInterval = absl::Seconds(1);  // of sessions with an active turn

}  // namespace

bool EngineStore::MustVerify(const Session& session) const {
  if (!shares_store() || !session.stored().exists) return false;
  if (verified_ == Name(session.owner().name, session.id())) return false;
  // A turn that somebody reads is asked about by itself.
  const auto turns = turns_.find(session.number());
  return turns == turns_.end() || turns->second.active->unread();
}

void EngineStore::BeginVerify(EngineMessage& message, const Session& session) {
  const Name name(session.owner().name, session.id());
  Waking& waking = waking_[name];
  waking.since = clock_.Monotonic();
  waking.verifies = true;
  waking.woken = woken_ == name;
  waking.messages.push_back(std::move(message));
  keeper_->Verify({.owner = name.first, .id = name.second}, session.stored().epoch,
                  [this, name, number = session.number()](const absl::Status& status) {
                    TakeVerdict(name, number, status);
                    EndVerify(name, status);
                  });
}

void EngineStore::TakeVerdict(const Name& name, uint64_t number, const absl::Status& status) {
  Session* const session = table_.Peek(name.first, name.second);
  if (session == nullptr || session->number() != number) return;
  if (status.code() == absl::StatusCode::kAborted) return OnMoved(*session);
  // The store has lost it, and is told again. One that does not answer has no say.
  if (status.code() == absl::StatusCode::kNotFound) MarkUnsaved(*session);
}

void EngineStore::EndVerify(const Name& name, const absl::Status& status) {
  const auto it = waking_.find(name);
  GMA_CHECK(it != waking_.end() && it->second.verifies);
  std::deque<EngineMessage> messages = std::exchange(it->second.messages, {});
  // Two servers that want it at once must not take it from each other for ever.
  const bool yields = it->second.woken && absl::IsAborted(status);
  waking_.erase(it);
  if (yields) {
    for (EngineMessage& message : messages) Refuse(message, MovedError());
    return;
  }
  verified_ = name;
  doubtful_ = absl::IsUnavailable(status);
  for (EngineMessage& message : messages) Dispatch(message);
  verified_.reset();
  doubtful_ = false;
}

void EngineStore::VerifyActive(absl::Duration now) {
  if (!shares_store() || now < next_verify_ || verifying_ > 0) return;
  next_verify_ = now + kVerifyInterval;
  for (const auto& request : requests_) {
    if (!request->journaled || request->session == nullptr || !request->begun()) continue;
    if (request->state == RequestState::kEnded) continue;
    const Session& session = *request->session;
    const Name name(session.owner().name, session.id());
    ++verifying_;
    keeper_->Verify({.owner = name.first, .id = name.second}, session.stored().epoch,
                    [this, name, number = session.number()](const absl::Status& status) {
                      --verifying_;
                      TakeVerdict(name, number, status);
                    });
  }
}

}  // namespace gma
