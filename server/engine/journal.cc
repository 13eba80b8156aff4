// Turns, written down before they start and when they end.
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/engine/engine_store.h"

namespace gma {
namespace {

// The smallest ttl is a second.
constexpr absl::Duration kLongTurnsInterval = absl::Milliseconds(250);

// Nearly what a record takes in the store.
int64_t RecordBytes(const std::vector<int32_t>& tokens) {
  return 512 + static_cast<int64_t>(tokens.size()) * 4;
}

absl::Status NotWritten(const absl::Status& status) {
  return absl::UnavailableError(absl::StrCat(
      "the turn could not be written down and was not begun: ", std::string(status.message())));
}

// Of what has happened and could not be written down; another server's session is that.
absl::Status Unwritten(const absl::Status& status) {
  if (status.ok() || absl::IsAborted(status)) return status;
  return absl::UnavailableError(
      absl::StrCat("the session could not be written down: ", std::string(status.message())));
}

}  // namespace

absl::Status EngineStore::JournalBegin(Request& request, Session& session, TurnKind kind,
                                       bool new_input) {
  if (keeper_ == nullptr) return absl::OkStatus();
  StoredState& stored = session.stored();
  if (!journals()) {
    // What the store has is of the past from here on, and nobody shall find it there.
    if (stored.exists) {
      keeper_->Remove({.owner = session.owner().name, .id = session.id()}, stored.epoch);
      stored.exists = false;
      table_.SetStoredBytes(session, 0);
    }
    return absl::OkStatus();
  }
  const auto first = request.feed.begin() + (session.pending() ? 1 : 0);
  std::vector<int32_t> feed(first, request.feed.end());
  // Before the turn, so that the store always has the whole of the last one.
  const bool due =
      stored.needs_snapshot || session.fed() - stored.fed_at_snapshot > options_.snapshot_tokens;
  const int64_t bytes = (due ? SnapshotBytes(session) : stored.bytes) + RecordBytes(feed);
  GMA_RETURN_IF_ERROR(CheckStoreQuota(session, bytes));
  const bool always = options_.durability == Durability::kAlways;
  if (const absl::Status saved = due ? Save(session, nullptr) : absl::OkStatus(); !saved.ok()) {
    MarkUnsaved(session);
    return always ? NotWritten(saved) : absl::OkStatus();
  }
  TurnBeginRecord record;
  record.first_sequence = session.last_sequence() + 1;
  record.key = request.request_key;
  record.kind = kind;
  record.context_before = session.context_tokens();
  record.feed = std::move(feed);
  record.new_input = new_input;
  if (request.generates) {
    record.sampling = request.sampling;
    record.stop = request.stop;
  }
  const uint64_t ticket = next_ticket_++;
  const Name name(session.owner().name, session.id());
  const bool asked = AppendRecord(session, std::move(record),
                                  [this, ticket, name](const absl::StatusOr<Written>& written) {
                                    OnTurnWritten(ticket, name, written);
                                  });
  if (!asked) {
    MarkUnsaved(session);
    return always ? NotWritten(absl::UnavailableError("the store does not keep up"))
                  : absl::OkStatus();
  }
  request.journaled = true;
  request.held_by = ticket;
  held_[ticket] = &request;
  return absl::OkStatus();
}

void EngineStore::JournalOpen(Session& session, SavedCallback answer) {
  if (!journals()) return answer(absl::OkStatus());
  const Name name(session.owner().name, session.id());
  const bool always = options_.durability == Durability::kAlways;
  auto shared = std::make_shared<SavedCallback>(std::move(answer));
  TurnBeginRecord nothing;
  nothing.first_sequence = 1;
  const bool asked =
      AppendRecord(session, std::move(nothing),
                   [this, name, always, shared](const absl::StatusOr<Written>& written) {
                     OnAppended(name, written);
                     (*shared)(always ? Unwritten(written.status()) : absl::OkStatus());
                   });
  if (asked) return;
  MarkUnsaved(session);
  (*shared)(always ? NotWritten(absl::UnavailableError("the store does not keep up"))
                   : absl::OkStatus());
}

void EngineStore::AnswerSaved(Session& session, SavedCallback answer) {
  ++session.stored().version;
  if (!journals()) return answer(absl::OkStatus());
  const bool always = options_.durability == Durability::kAlways;
  if (session.phase() != SessionPhase::kIdle) {
    session.stored().needs_snapshot = true;  // the next turn begins with one
    return answer(absl::OkStatus());
  }
  auto shared = std::make_shared<SavedCallback>(std::move(answer));
  const Name name(session.owner().name, session.id());
  const absl::Status asked =
      Save(session, [this, name, always, shared](const absl::Status& status) {
        const bool tells = always || status.code() == absl::StatusCode::kAborted;
        Session* const here = table_.Peek(name.first, name.second);
        if (here != nullptr && always && !status.ok()) LeaveToStore(*here, status);
        (*shared)(tells ? Unwritten(status) : absl::OkStatus());
      });
  if (asked.ok()) return;
  MarkUnsaved(session);
  (*shared)(always ? asked : absl::OkStatus());
}

void EngineStore::JournalLongTurns(absl::Duration now) {
  if (!journals() || now < next_long_turns_) return;
  next_long_turns_ = now + kLongTurnsInterval;
  for (const auto& request : requests_) {
    if (!request->journaled || request->held_by != 0 || !request->begun()) continue;
    if (request->state == RequestState::kEnded) continue;
    Session& session = *request->session;
    if (session.stored().needs_snapshot) continue;
    if (now - session.stored().journaled_at < session.ttl() / 2) continue;
    const Name name(session.owner().name, session.id());
    AppendRecord(session, TurnRunsRecord{}, [this, name](const absl::StatusOr<Written>& written) {
      OnAppended(name, written);
    });
  }
}

bool EngineStore::AppendRecord(Session& session, JournalRecord record, Keeper::Done<Written> done) {
  // What happens in a turn that was written down has to be too, or be forgotten.
  const bool begins = std::holds_alternative<TurnBeginRecord>(record);
  const bool must = options_.durability == Durability::kAlways && !begins;
  if (!must && !keeper_->HasRoom(0)) return false;
  StoredState& stored = session.stored();
  keeper_->Append({.name = {.owner = session.owner().name, .id = session.id()},
                   .epoch = stored.epoch,
                   .ttl = session.ttl(),
                   .number = stored.journaled++,
                   .record = std::move(record),
                   .sync = options_.durability == Durability::kAlways},
                  std::move(done));
  stored.exists = true;
  stored.journaled_at = clock_.Monotonic();
  return true;
}

Session* EngineStore::OnAppended(const Name& name, const absl::StatusOr<Written>& written) {
  Session* const session = table_.Peek(name.first, name.second);
  if (session == nullptr) return nullptr;
  if (written.ok()) {
    table_.SetStoredBytes(*session, session->stored().bytes + written->bytes);
    return session;
  }
  if (written.status().code() == absl::StatusCode::kAborted) {
    OnMoved(*session);
  } else if (options_.durability == Durability::kAlways) {
    LeaveToStore(*session, written.status());
  } else {
    MarkUnsaved(*session);
    return session;
  }
  return nullptr;
}

void EngineStore::LeaveToStore(Session& session, const absl::Status& status) {
  session.stored().needs_snapshot = false;
  EndSession(session, SessionEnd::kLost, Unwritten(status));
}

void EngineStore::OnTurnWritten(uint64_t ticket, const Name& name,
                                const absl::StatusOr<Written>& written) {
  Session* const session = OnAppended(name, written);
  const auto it = held_.find(ticket);
  if (it == held_.end() || session == nullptr) return;  // it has ended, or waits for more
  Request& request = *it->second;
  held_.erase(it);
  request.held_by = 0;
  if (!written.ok()) request.journaled = false;
  Release(request);
}

void EngineStore::Release(Request& request) {
  if (!request.entered_turn) return EnterTurn(request, *request.session);
  if (request.state != RequestState::kRunning) return;
  // Input that has entered is known to the store now.
  for (AppendedEvent& event : std::exchange(request.entered, {})) {
    Emit(request, std::move(event));
  }
}

void EngineStore::OnInterjection(Request& request, int64_t drawn,
                                 absl::Span<const int32_t> tokens) {
  if (!request.journaled) return;
  Session& session = *request.session;
  const Name name(session.owner().name, session.id());
  const uint64_t ticket = next_ticket_++;
  const bool asked = AppendRecord(
      session, InterjectionRecord{.drawn = drawn, .tokens = {tokens.begin(), tokens.end()}},
      [this, ticket, name](const absl::StatusOr<Written>& written) {
        OnTurnWritten(ticket, name, written);
      });
  if (!asked) {
    request.journaled = false;
    MarkUnsaved(session);
    return;
  }
  // Nothing that comes after it is told before: run again without it, the turn would be another.
  held_.erase(request.held_by);
  request.held_by = ticket;
  held_[ticket] = &request;
}

bool EngineStore::JournalEnd(Request& request, FinishReason reason, bool failed,
                             SavedCallback done) {
  if (request.session == nullptr || !request.journaled) return false;
  Session& session = *request.session;
  if (request.recorded_end) {
    // The journal has its end. Where it was not reached, the next one has to run it again.
    if (session.last_sequence() != request.recorded_end->last_sequence) {
      session.stored().unfinished = true;
    }
    return false;
  }
  if (shutting_down_ || request.left) {
    session.stored().unfinished = true;
    return false;
  }
  const Name name(session.owner().name, session.id());
  const bool asked = AppendRecord(
      session,
      TurnEndRecord{.reason = reason,
                    .drawn = std::move(request.drawn),
                    .failed = failed,
                    .context_after = session.context_tokens(),
                    .last_sequence = session.last_sequence()},
      [this, name, done = std::move(done)](const absl::StatusOr<Written>& written) mutable {
        OnAppended(name, written);
        if (done != nullptr) done(Unwritten(written.status()));
      });
  if (!asked) MarkUnsaved(session);
  return asked;
}

}  // namespace gma
