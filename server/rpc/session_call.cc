#include "server/rpc/session_call.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "server/options/limits.h"

namespace gma {

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* SessionCall::Start(
    RpcEnvironment& env, grpc::CallbackServerContext* context) {
  const std::shared_ptr<SessionCall> call(new SessionCall(env, context));
  call->OwnItself();
  absl::StatusOr<std::string> owner = OwnerOf(*context, env);
  if (owner.ok()) {
    call->owner_ = *std::move(owner);
    call->StartRead(&call->incoming_);
  } else {
    call->Enqueue([status = owner.status()](ReactorCall& self) {
      auto& session = static_cast<SessionCall&>(self);
      session.End(Refused(status, session.env_));
      session.Pump();
    });
  }
  return call.get();
}

void SessionCall::OnReadDone(bool ok) {
  Command command;
  if (ok) {
    command = ReadCommand();
  } else {
    // Messages are read as raw bytes, so this is a half-close or a broken connection.
    command.status = absl::CancelledError("the stream ended without End");
    command.fatal = true;
  }
  Enqueue([command = std::move(command)](ReactorCall& self) mutable {
    static_cast<SessionCall&>(self).Take(std::move(command));
  });
}

SessionCall::Command SessionCall::ReadCommand() {
  Command command;
  v1::SessionRequest request;
  command.status = FromBytes(incoming_, request);
  command.fatal = !command.status.ok();
  if (command.fatal) return command;
  command.request_id = request.request_id();
  command.status = ConvertCommand(request, command);
  return command;
}

absl::Status SessionCall::ConvertCommand(const v1::SessionRequest& request,
                                         Command& command) const {
  switch (request.command_case()) {
    case v1::SessionRequest::kOpen: {
      GMA_ASSIGN_OR_RETURN(command.action, ConvertOpen(request.open(), env_.model));
      return absl::OkStatus();
    }
    case v1::SessionRequest::kAppend: {
      GMA_ASSIGN_OR_RETURN(command.action, ConvertSessionAppend(request.append(), env_.model));
      return absl::OkStatus();
    }
    case v1::SessionRequest::kGenerate: {
      GMA_ASSIGN_OR_RETURN(command.action,
                           ConvertSessionGenerate(request.generate(), env_.model, RandomSeed()));
      return absl::OkStatus();
    }
    case v1::SessionRequest::kCredit:
      GMA_RETURN_IF_ERROR(
          CheckLimit(limits::kCredit, static_cast<double>(request.credit().tokens())));
      command.action = Credit{request.credit().tokens()};
      return absl::OkStatus();
    case v1::SessionRequest::kCancel: {
      Cancel cancel;
      if (request.cancel().has_input()) {
        GMA_ASSIGN_OR_RETURN(cancel.input, ConvertInput(request.cancel().input(), env_.model,
                                                        /*required=*/true));
      }
      command.action = std::move(cancel);
      return absl::OkStatus();
    }
    case v1::SessionRequest::kEnd:
      command.action = EndCommand{};
      return absl::OkStatus();
    case v1::SessionRequest::COMMAND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(
      "command is not set, must be open, append, generate, cancel, credit or end");
}

void SessionCall::Take(Command command) {
  if (over()) return;
  if (command.fatal || (!command.status.ok() && phase_ == Phase::kNew)) {
    Abandon();
    End(Refused(std::move(command.status), env_));
  } else if (!command.status.ok()) {
    Reject(command.request_id, Refused(std::move(command.status), env_));
  } else if (auto* open = std::get_if<ConvertedOpen>(&command.action)) {
    TakeOpen(command.request_id, *open);
  } else if (phase_ == Phase::kNew) {
    End(Refused(absl::InvalidArgumentError("the first message of a Session must be open"), env_));
  } else if (auto* input = std::get_if<ConvertedAppend>(&command.action)) {
    TakeAppend(command.request_id, std::move(*input));
  } else if (auto* generate = std::get_if<GenerateSpec>(&command.action)) {
    TakeGenerate(command.request_id, std::move(*generate));
  } else if (auto* credit = std::get_if<Credit>(&command.action)) {
    credit_ = std::min(credit_ + credit->tokens, kMaxCredit);
    if (stream_ != nullptr) env_.engine.AddCredit(stream_, credit->tokens);
  } else if (auto* cancel = std::get_if<Cancel>(&command.action)) {
    TakeCancel(command.request_id, std::move(*cancel));
  } else {
    TakeEnd(command.request_id);
  }
  ReadNext();
  Pump();
}

void SessionCall::ReadNext() {
  const bool waits = phase_ == Phase::kOpening || awaits_append_;
  if (!waits && phase_ != Phase::kEnding && !over()) StartRead(&incoming_);
}

void SessionCall::TakeOpen(uint64_t request_id, const ConvertedOpen& open) {
  if (phase_ != Phase::kNew) {
    return Reject(request_id, absl::FailedPreconditionError(
                                  "open: the stream has a session, must be the first message"));
  }
  phase_ = Phase::kOpening;
  keep_ = open.keep;
  credit_ = open.initial_credit;
  auto opened = [request_id, open](SessionCall& self, absl::StatusOr<SessionSnapshotInfo> info) {
    self.HandleOpened(request_id, std::move(info), open);
  };
  if (open.session.has_value()) {
    env_.engine.Get(owner_, *open.session, Callback(opened));
  } else {
    env_.engine.Open({.owner = owner_, .ttl = open.ttl}, Callback(opened));
  }
}

void SessionCall::HandleOpened(uint64_t request_id, absl::StatusOr<SessionSnapshotInfo> info,
                               const ConvertedOpen& open) {
  const bool resumed = open.session.has_value();
  if (!info.ok()) {
    End(info.status());
    return Pump();
  }
  if (over() && resumed) return;  // nothing of it was used yet
  session_ = info->id;
  if (over()) {
    // Nobody learned the id of this session, so nobody could go on with it.
    keep_ = false;
    return CloseUnlessKept();
  }
  phase_ = Phase::kIdle;
  labels_ = {.model = &env_.model, .session_id = info->id.Hex()};
  v1::SessionResponse response = NewResponse(request_id);
  v1::SessionOpened& opened = *response.mutable_opened();
  opened.set_session_id(labels_.session_id);
  opened.set_model(env_.model.name);
  opened.set_resumed(resumed);
  opened.set_context_tokens(info->context_tokens);
  opened.set_last_sequence(static_cast<uint64_t>(info->last_sequence));
  opened.set_turn_active(info->turn_active);
  Send(response);
  if (open.resume_after.has_value()) {
    ResumeSpec spec{.owner = owner_, .session = *session_, .after = *open.resume_after};
    spec.deadline = DeadlineOf(*context_, env_.clock);
    spec.initial_credit = credit_;
    BeginTurn(request_id, env_.engine.Resume(std::move(spec), Notice()));
  }
  ReadNext();
  Pump();
}

void SessionCall::TakeAppend(uint64_t request_id, ConvertedAppend append) {
  HandOn(request_id, std::move(append), &Engine::Append);
}

void SessionCall::TakeCancel(uint64_t request_id, Cancel cancel) {
  if (cancel.input.has_value()) {
    return HandOn(request_id, {.input = *std::move(cancel.input), .request_key = {}, .after = {}},
                  &Engine::CancelAndAppend);
  }
  // A Cancel that crosses the end of its turn on the way is no mistake of the client.
  if (stream_ != nullptr) env_.engine.Cancel(stream_, /*by_client=*/true);
}

void SessionCall::HandOn(uint64_t request_id, ConvertedAppend append, AppendCall call) {
  awaits_append_ = true;
  AppendSpec spec{.owner = owner_,
                  .session = *session_,
                  .input = std::move(append.input),
                  .deadline = DeadlineOf(*context_, env_.clock),
                  .request_key = std::move(append.request_key),
                  .after = append.after,
                  .turn = stream_,
                  .request_id = request_id};
  // Input for a turn that was given up before it began must not be fed in its place.
  spec.abandoned = [self = std::static_pointer_cast<SessionCall>(shared_from_this()),
                    turn = stream_] {
    return self->client_gone() || (turn != nullptr && turn->cancelled());
  };
  (env_.engine.*call)(std::move(spec), Callback([request_id](SessionCall& self, auto info) {
                        self.HandleAppended(request_id, std::move(info));
                      }));
}

void SessionCall::HandleAppended(uint64_t request_id, absl::StatusOr<SessionSnapshotInfo> info) {
  if (over()) return;
  awaits_append_ = false;
  if (!info.ok() || !info->entered_turn) Refill();  // the end of a turn that was active goes first
  if (over()) {
    // The end of that turn was the end of the stream.
  } else if (!info.ok()) {
    Reject(request_id, info.status());
  } else if (!info->entered_turn) {
    v1::SessionResponse response = NewResponse(request_id);
    response.set_sequence(static_cast<uint64_t>(info->last_sequence));
    response.mutable_appended()->set_context_tokens(info->context_tokens);
    response.mutable_appended()->set_tokens(info->appended_tokens);
    Send(response);
  }
  ReadNext();
  Pump();
}

void SessionCall::TakeGenerate(uint64_t request_id, GenerateSpec spec) {
  if (phase_ == Phase::kTurn) {
    return Reject(request_id, absl::FailedPreconditionError("generate: a turn is active"));
  }
  spec.owner = owner_;
  spec.session = session_;
  spec.deadline = DeadlineOf(*context_, env_.clock);
  spec.initial_credit = credit_;
  BeginTurn(request_id, env_.engine.Generate(std::move(spec), Notice()));
}

void SessionCall::BeginTurn(uint64_t request_id,
                            absl::StatusOr<std::shared_ptr<TokenStream>> stream) {
  if (!stream.ok()) return Reject(request_id, stream.status());
  phase_ = Phase::kTurn;
  labels_.request_id = request_id;
  stream_ = *std::move(stream);
}

absl::AnyInvocable<void()> SessionCall::Notice() {
  return [self = std::static_pointer_cast<SessionCall>(shared_from_this())] {
    self->Enqueue([](ReactorCall& call) { static_cast<SessionCall&>(call).Pump(); });
  };
}

void SessionCall::HandleTurnEnd(const absl::Status& status) {
  stream_ = nullptr;
  if (status == TakenOverError()) {
    keep_ = true;  // the session is that client's now
    return End(status);
  }
  const bool ending = phase_ == Phase::kEnding;
  if (!ending) phase_ = Phase::kIdle;
  if (!status.ok()) Reject(labels_.request_id, status);
  if (ending && !over()) SayGoodbye();
}

void SessionCall::TakeEnd(uint64_t request_id) {
  const bool active = phase_ == Phase::kTurn;
  phase_ = Phase::kEnding;
  end_request_ = request_id;
  if (!active) return SayGoodbye();
  env_.engine.Cancel(stream_, /*by_client=*/true);
}

void SessionCall::SayGoodbye() {
  auto said = [](SessionCall& self, auto info) { self.HandleGoodbye(std::move(info)); };
  if (keep_) {
    env_.engine.Get(owner_, *session_, Callback(said));
  } else {
    env_.engine.Close(owner_, *session_, Callback(said));
  }
}

void SessionCall::HandleGoodbye(absl::StatusOr<SessionSnapshotInfo> info) {
  session_.reset();
  if (info.ok()) {
    v1::SessionResponse response = NewResponse(end_request_);
    response.mutable_ended()->set_context_tokens(info->context_tokens);
    Send(response);
  }
  End(info.status());
  Pump();
}

void SessionCall::CloseUnlessKept() {
  if (!session_.has_value() || keep_) return;
  env_.engine.Close(owner_, *session_, [](const absl::StatusOr<SessionSnapshotInfo>&) {});
  session_.reset();
}

v1::SessionResponse SessionCall::NewResponse(uint64_t request_id) {
  v1::SessionResponse response;
  response.set_request_id(request_id);
  return response;
}

void SessionCall::Reject(uint64_t request_id, const absl::Status& status) {
  const bool lost = status.code() == absl::StatusCode::kDataLoss ||
                    status.code() == absl::StatusCode::kNotFound ||
                    status.code() == absl::StatusCode::kUnavailable;
  if (lost) {
    Abandon();
    return End(status);
  }
  v1::SessionResponse response = NewResponse(request_id);
  response.mutable_error()->set_code(static_cast<int32_t>(status.code()));
  response.mutable_error()->set_message(std::string(status.message()));
  Send(response);
}

void SessionCall::Refill() {
  if (stream_ == nullptr) return;
  std::optional<absl::Status> end = stream_->TakeAll(events_);
  for (const StreamEvent& event : events_) {
    if (std::holds_alternative<TokenEvent>(event)) --credit_;
  }
  PackEvents<v1::SessionResponse>(events_, labels_,
                                  [this](v1::SessionResponse& response) { Send(response); });
  if (end.has_value()) HandleTurnEnd(*end);
}

void SessionCall::Abandon() {
  if (stream_ != nullptr) env_.engine.Cancel(stream_, /*by_client=*/false);
  stream_ = nullptr;
  CloseUnlessKept();
}

void SessionCall::SendHeartbeat() {
  v1::SessionResponse response = NewResponse(0);
  response.mutable_heartbeat();
  Send(response);
}

template <typename Handle>
EngineCallback<SessionSnapshotInfo> SessionCall::Callback(Handle handle) {
  auto self = std::static_pointer_cast<SessionCall>(shared_from_this());
  return [self, handle](absl::StatusOr<SessionSnapshotInfo> info) mutable {
    self->Enqueue([handle, info = std::move(info)](ReactorCall& call) mutable {
      handle(static_cast<SessionCall&>(call), std::move(info));
    });
  };
}

}  // namespace gma
