// Sessions (server/rpc/services.h).
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/options/limits.h"
#include "server/rpc/convert.h"
#include "server/rpc/services.h"
#include "server/rpc/session_info.h"
#include "server/rpc/snapshot_calls.h"

namespace gma {
namespace {

constexpr int32_t kDefaultPage = 100;

void FillCheckpoint(const CheckpointInfo& from, v1::CheckpointInfo& to) {
  to.set_name(from.name);
  to.set_context_tokens(from.context_tokens);
  to.set_automatic(from.automatic);
}

// Answers with `fill` of the engine's answer, on the dispatcher's thread.
template <typename T, typename Fill>
EngineCallback<T> Answer(UnaryReply reply, RpcEnvironment& env, Fill fill) {
  return [reply = std::move(reply), &env, fill](absl::StatusOr<T> result) mutable {
    env.dispatcher.Post([reply = std::move(reply), fill, result = std::move(result)]() mutable {
      if (result.ok()) fill(*result);
      std::move(reply).Finish(result.status());
    });
  };
}

EngineCallback<SessionSnapshotInfo> AnswerInfo(UnaryReply reply, RpcEnvironment& env,
                                               v1::SessionInfo* response) {
  return Answer<SessionSnapshotInfo>(
      std::move(reply), env,
      [&env, response](const SessionSnapshotInfo& info) { FillInfo(info, env.model, *response); });
}

// Fills a page of `size` from up to `size` + 1 sessions: the one too many says that there is more.
void FillPage(std::vector<SessionSnapshotInfo>& sessions, size_t size, const ServedModel& model,
              v1::ListSessionsResponse& response) {
  const bool more = sessions.size() > size;
  if (more) sessions.resize(size, sessions.front());
  for (const SessionSnapshotInfo& info : sessions) FillInfo(info, model, *response.add_sessions());
  if (more) response.set_next_page_token(sessions.back().id.Hex());
}

}  // namespace

grpc::ServerUnaryReactor* SessionsService::Open(Context* context,
                                                const v1::OpenSessionRequest* request,
                                                v1::SessionInfo* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_RETURN_IF_ERROR(CheckModelName(request->model(), env_.model));
    GMA_ASSIGN_OR_RETURN(const absl::Duration ttl, ConvertTtl(request->ttl_seconds()));
    env_.engine.Open({.owner = std::move(owner), .ttl = ttl, .pinned = request->pinned()},
                     AnswerInfo(std::move(reply), env_, response));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::Get(Context* context,
                                               const v1::GetSessionRequest* request,
                                               v1::SessionInfo* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_ASSIGN_OR_RETURN(const SessionId id, ConvertSessionId(request->session_id()));
    env_.engine.Get(std::move(owner), id, AnswerInfo(std::move(reply), env_, response));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::List(Context* context,
                                                const v1::ListSessionsRequest* request,
                                                v1::ListSessionsResponse* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_RETURN_IF_ERROR(CheckLimit(limits::kPageSize, request->page_size()));
    const int32_t size = request->page_size() == 0 ? kDefaultPage : request->page_size();
    std::optional<SessionId> after;
    if (!request->page_token().empty()) {
      absl::StatusOr<SessionId> token = SessionId::FromHex(request->page_token());
      if (!token.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat("page_token is ", Quoted(request->page_token()),
                         ", must be the next_page_token of the page before, or empty"));
      }
      after = *token;
    }
    auto fill = [this, size, response](std::vector<SessionSnapshotInfo>& sessions) {
      FillPage(sessions, size, env_.model, *response);
    };
    env_.engine.List(
        std::move(owner), after, size + 1,
        Answer<std::vector<SessionSnapshotInfo>>(std::move(reply), env_, std::move(fill)));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::Append(Context* context,
                                                  const v1::AppendRequest* request,
                                                  v1::SessionInfo* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_ASSIGN_OR_RETURN(AppendSpec append, ConvertAppend(*request, env_.model));
    append.owner = std::move(owner);
    append.deadline = DeadlineOf(*context, env_.clock);
    append.abandoned = [context] { return context->IsCancelled(); };
    env_.engine.Append(std::move(append), AnswerInfo(std::move(reply), env_, response));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::Close(Context* context,
                                                 const v1::CloseSessionRequest* request,
                                                 v1::CloseSessionResponse* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_ASSIGN_OR_RETURN(const SessionId id, ConvertSessionId(request->session_id()));
    auto fill = [response](const SessionSnapshotInfo& info) {
      response->set_context_tokens(info.context_tokens);
    };
    env_.engine.Close(std::move(owner), id,
                      Answer<SessionSnapshotInfo>(std::move(reply), env_, fill));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::Fork(Context* context, const v1::ForkRequest* request,
                                                v1::SessionInfo* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_ASSIGN_OR_RETURN(const SessionId id, ConvertSessionId(request->session_id()));
    env_.engine.Fork(std::move(owner), id, AnswerInfo(std::move(reply), env_, response));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::Checkpoint(Context* context,
                                                      const v1::CheckpointRequest* request,
                                                      v1::CheckpointInfo* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_ASSIGN_OR_RETURN(const SessionId id, ConvertSessionId(request->session_id()));
    GMA_RETURN_IF_ERROR(CheckLimit(limits::kCheckpointName, request->name().size()));
    auto fill = [response](const CheckpointInfo& info) { FillCheckpoint(info, *response); };
    env_.engine.Checkpoint(std::move(owner), id, request->name(),
                           Answer<CheckpointInfo>(std::move(reply), env_, fill));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::ListCheckpoints(
    Context* context, const v1::ListCheckpointsRequest* request,
    v1::ListCheckpointsResponse* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_ASSIGN_OR_RETURN(const SessionId id, ConvertSessionId(request->session_id()));
    auto fill = [response](const std::vector<CheckpointInfo>& infos) {
      for (const CheckpointInfo& info : infos) FillCheckpoint(info, *response->add_checkpoints());
    };
    env_.engine.ListCheckpoints(
        std::move(owner), id,
        Answer<std::vector<CheckpointInfo>>(std::move(reply), env_, std::move(fill)));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::DeleteCheckpoint(
    Context* context, const v1::DeleteCheckpointRequest* request,
    v1::DeleteCheckpointResponse* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_ASSIGN_OR_RETURN(const SessionId id, ConvertSessionId(request->session_id()));
    GMA_RETURN_IF_ERROR(CheckLimit(limits::kRewindCheckpoint, request->checkpoint().size()));
    env_.engine.DeleteCheckpoint(
        std::move(owner), id, request->checkpoint(),
        Answer<SessionSnapshotInfo>(std::move(reply), env_, [](const SessionSnapshotInfo&) {}));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::Pin(Context* context, const v1::PinRequest* request,
                                               v1::SessionInfo* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_ASSIGN_OR_RETURN(const SessionId id, ConvertSessionId(request->session_id()));
    env_.engine.Pin(std::move(owner), id, request->pinned(),
                    AnswerInfo(std::move(reply), env_, response));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::Rewind(Context* context,
                                                  const v1::RewindRequest* request,
                                                  v1::SessionInfo* response) {
  return ServeUnary(context, env_, [&](UnaryReply& reply) -> absl::Status {
    GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context, env_));
    GMA_ASSIGN_OR_RETURN(RewindSpec spec, ConvertRewind(*request));
    spec.owner = std::move(owner);
    spec.deadline = DeadlineOf(*context, env_.clock);
    spec.abandoned = [context] { return context->IsCancelled(); };
    env_.engine.Rewind(std::move(spec), AnswerInfo(std::move(reply), env_, response));
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::StateChunk>* SessionsService::Export(
    Context* context, const v1::ExportRequest* request) {
  return StartExport(env_, context, *request);
}

grpc::ServerReadReactor<v1::StateChunk>* SessionsService::Import(Context* context,
                                                                 v1::SessionInfo* response) {
  return StartImport(env_, context, response);
}

}  // namespace gma
