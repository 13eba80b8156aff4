// Sessions as values: fork, checkpoint, rewind, export, import.
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/engine/engine_core.h"

namespace gma {
namespace {

CheckpointInfo InfoOf(const Checkpoint& checkpoint) {
  return {.name = checkpoint.name,
          .context_tokens = checkpoint.point.context_tokens(),
          .automatic = checkpoint.kind == CheckpointKind::kAutomatic};
}

}  // namespace

absl::StatusOr<Session*> EngineCore::FindIdle(const std::string& owner, const SessionId& id) {
  GMA_ASSIGN_OR_RETURN(Session* const session, table_.Find(owner, id, clock_.Monotonic()));
  if (turns_.contains(session->number())) return BusyError(*session);
  return session;
}

void EngineCore::AnswerInfoSaved(Session& session, EngineCallback<SessionSnapshotInfo> done) {
  const SessionSnapshotInfo info = EngineCore::InfoOf(session);
  AnswerSaved(session, [done = std::move(done), info](const absl::Status& status) mutable {
    status.ok() ? done(info) : done(status);
  });
}

void EngineCore::OnMessage(ForkMessage message) {
  absl::StatusOr<Session*> session = Fork(message);
  if (!session.ok()) return message.done(session.status());
  AnswerInfoSaved(**session, std::move(message.done));
}

absl::StatusOr<Session*> EngineCore::Fork(const ForkMessage& message) {
  GMA_ASSIGN_OR_RETURN(const Session* const source, FindIdle(message.owner, message.id));
  GMA_RETURN_IF_ERROR(CheckQuota(source->owner(), 1));
  if (journals()) {
    GMA_RETURN_IF_ERROR(CheckStoreQuota(source->owner(), SnapshotBytes(*source)));
  }
  if (!MakeRows(1, source)) return NoRowError();
  GMA_ASSIGN_OR_RETURN(StateRow row, pool_->AcquireCopy(source->row()));
  Session& fork = table_.InsertFork(*source, std::move(row), clock_.Monotonic());
  metrics_.session_forks->Increment();
  GMA_LOG(kInfo, "session_forked",
          {{"session", fork.id().Short()},
           {"of", source->id().Short()},
           {"context_tokens", fork.context_tokens()},
           {"rows_used", pool_->used()}});
  return &fork;
}

void EngineCore::OnMessage(CheckpointMessage message) {
  absl::StatusOr<CheckpointInfo> info = Keep(message);
  if (!info.ok()) return message.done(info.status());
  AnswerSaved(*table_.Peek(message.owner, message.id),
              [done = std::move(message.done), info](const absl::Status& status) mutable {
                status.ok() ? done(info) : done(status);
              });
}

absl::StatusOr<CheckpointInfo> EngineCore::Keep(const CheckpointMessage& message) {
  GMA_ASSIGN_OR_RETURN(Session* const session, FindIdle(message.owner, message.id));
  GMA_ASSIGN_OR_RETURN(const Checkpoint* const kept, session->KeepCheckpoint(message.name));
  return gma::InfoOf(*kept);
}

void EngineCore::OnMessage(ListCheckpointsMessage message) {
  absl::StatusOr<Session*> session = table_.Find(message.owner, message.id, clock_.Monotonic());
  if (!session.ok()) return message.done(session.status());
  std::vector<CheckpointInfo> infos;
  for (const Checkpoint& checkpoint : (*session)->past().ring().all()) {
    infos.push_back(gma::InfoOf(checkpoint));
  }
  message.done(std::move(infos));
}

void EngineCore::OnMessage(DeleteCheckpointMessage message) {
  absl::StatusOr<Session*> session = table_.Find(message.owner, message.id, clock_.Monotonic());
  if (!session.ok()) return message.done(session.status());
  const absl::Status status = (*session)->DropCheckpoint(message.name);
  if (!status.ok()) return message.done(status);
  AnswerInfoSaved(**session, std::move(message.done));
}

void EngineCore::OnMessage(ExportMessage message) {
  absl::StatusOr<Session*> session = FindIdle(message.owner, message.id);
  if (!session.ok()) return message.done(session.status());
  metrics_.session_exports->Increment();
  SessionImage image;
  image.ttl = (*session)->ttl();
  image.point = (*session)->point();
  image.row = (*session)->row().view().Copy();
  message.done(std::move(image));
}

void EngineCore::OnMessage(ImportMessage message) {
  absl::StatusOr<Session*> session = Import(message);
  if (!session.ok()) return message.done(session.status());
  AnswerInfoSaved(**session, std::move(message.done));
}

absl::StatusOr<Session*> EngineCore::Import(const ImportMessage& message) {
  const SessionImage& image = message.image;
  Owner& owner = table_.OwnerOf(message.owner);
  GMA_RETURN_IF_ERROR(CheckQuota(owner, 1));
  if (journals()) {
    GMA_RETURN_IF_ERROR(
        CheckStoreQuota(owner, kLeastStoredBytes + static_cast<int64_t>(parked_row_bytes_)));
  }
  if (!MakeRows(1)) return NoRowError();
  GMA_ASSIGN_OR_RETURN(StateRow row, pool_->AcquireUnset());
  row.Write(image.row);
  Session& session = table_.Insert(owner, std::move(row), image.ttl, clock_.Monotonic());
  session.StandAt(image.point);
  table_.KeepAutomatic(session);  // the oldest point that it can go back to
  metrics_.session_imports->Increment();
  GMA_LOG(kInfo, "session_imported",
          {{"session", session.id().Short()},
           {"context_tokens", session.context_tokens()},
           {"rows_used", pool_->used()}});
  return &session;
}

absl::Status EngineCore::BeginRewind(Request& request, Session& session) {
  GMA_ASSIGN_OR_RETURN(const RewindPlan plan,
                       session.past().PlanRewind(*request.rewind, session.context_tokens()));
  metrics_.session_rewinds->Increment();
  GMA_LOG(kInfo, "session_rewound",
          {{"session", session.id().Short()},
           {"from", session.context_tokens()},
           {"to", plan.point.context_tokens()},
           {"checkpoint_at", plan.row_fed}});
  session.Rewind(*request.rewind, plan);
  request.feed = plan.replay;
  metrics_.session_rewind_tokens->Increment(static_cast<double>(request.feed_end()));
  // The row is on its way: a session that stopped there would be one that nobody asked for.
  request.deadline = absl::InfiniteDuration();
  StartTurn(request, session, TurnKind::kReplay, /*new_input=*/false);
  return absl::OkStatus();
}

}  // namespace gma
