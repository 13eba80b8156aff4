#include "client/lib/client.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "client/lib/call_metadata.h"
#include "client/lib/resume.h"
#include "client/lib/status.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace gma::client {
namespace {

constexpr size_t kMaxCaFileBytes = 16 << 20;
constexpr absl::Duration kPollPeriod = absl::Milliseconds(200);  // of a server that starts up

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  // A proxy of the environment is for the web; it would break calls to this machine.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Each client has connections of its own, so that a load can be spread over several.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // The server sends a heartbeat every 15 s, so a ping is only sent when it is silent for longer:
  // a frozen or vanished server is noticed after 40 s and a healthy one is never pinged.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  // Answers to Tokenize and Append can hold a million tokens.
  arguments.SetMaxReceiveMessageSize(64 << 20);
  return arguments;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Create(const ClientOptions& options) {
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.tls) {
    grpc::SslCredentialsOptions ssl;
    if (!options.tls_ca_file.empty()) {
      GMA_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadFile(options.tls_ca_file, kMaxCaFileBytes));
    }
    credentials = grpc::SslCredentials(ssl);
  }
  std::vector<std::unique_ptr<Target>> targets;
  for (const absl::string_view address : absl::StrSplit(options.address, ',')) {
    if (address.empty()) return absl::InvalidArgumentError("the server's address is empty");
    targets.push_back(std::make_unique<Target>(
        grpc::CreateCustomChannel(std::string(address), credentials, Arguments())));
  }
  return std::unique_ptr<Client>(new Client(options, std::move(targets)));
}

Client::Client(ClientOptions options, std::vector<std::unique_ptr<Target>> targets)
    : options_(std::move(options)), targets_(std::move(targets)) {
  std::string key = options_.api_key.value_or("");
  if (!options_.api_key.has_value()) {
    if (const char* from_environment = std::getenv("GMA_API_KEY")) key = from_environment;
  }
  if (!key.empty()) authorization_ = "Bearer " + key;
}

Client::~Client() { streams_.WaitForNone(); }

void Client::Prepare(grpc::ClientContext& context, absl::Duration timeout,
                     const std::string& session_id) const {
  AddMetadata(context, authorization_, session_id);
  if (timeout != absl::InfiniteDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
}

absl::Status Client::EndOf(const Target& target, const grpc::Status& status,
                           const grpc::ClientContext& context) {
  if (status.ok()) return absl::OkStatus();
  absl::Status why = StatusOfCall(status, context);
  if (BrokeOff(why)) targets_.Leave(target);
  return why;
}

template <typename Response, typename Stub, typename Request>
absl::StatusOr<Response> Client::Call(Stub Target::*stub, const Request& request,
                                      grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                                   const Request&, Response*)) {
  grpc::ClientContext context;
  if constexpr (requires { request.session_id(); }) {
    Prepare(context, options_.deadline, request.session_id());
  } else {
    Prepare(context, options_.deadline);
  }
  Target& target = targets_.current();
  Response response;
  const grpc::Status status = (target.*stub.*method)(&context, request, &response);
  GMA_RETURN_IF_ERROR(EndOf(target, status, context));
  return response;
}

template <typename Attempt>
auto Client::UntilAnswered(const Attempt& attempt) const {
  Retries retries(options_.resume_for);
  for (;;) {
    auto response = attempt();
    if (response.ok() || !BrokeOff(response.status())) return response;
    const std::optional<absl::Duration> pause = retries.Next(response.status());
    if (!pause.has_value()) return response;
    absl::SleepFor(*pause);
  }
}

absl::StatusOr<v1::ModelInfo> Client::WaitUntilServing(std::string_view model,
                                                       absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  v1::GetModelRequest request;
  request.set_model(std::string(model));
  for (;;) {
    grpc::ClientContext context;
    Prepare(context, std::max(end - absl::Now(), kPollPeriod));
    v1::ModelInfo response;
    Target& target = targets_.current();
    const grpc::Status status = target.models.Get(&context, request, &response);
    if (status.ok()) return response;
    const bool not_yet = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
    if (!not_yet) return StatusOfCall(status, context);
    targets_.Leave(target);
    if (absl::Now() + kPollPeriod > end) {
      return absl::UnavailableError(absl::StrCat("no server answers at ", options_.address,
                                                 " (waited ", absl::FormatDuration(timeout),
                                                 "): ", status.error_message()));
    }
    // Whether the other side is there can only be found out by asking again.
    absl::SleepFor(kPollPeriod);
  }
}

std::unique_ptr<AnswerStream> Client::Generate(v1::GenerateRequest request,
                                               absl::Duration timeout) {
  return StreamAnswer(Environment(), std::move(request), timeout);
}

std::unique_ptr<AnswerStream> Client::ResumeSession(std::string_view session_id, uint64_t after,
                                                    absl::Duration timeout) {
  v1::ResumeRequest request;
  request.set_session_id(std::string(session_id));
  request.set_after(after);
  return StreamAnswer(Environment(), std::move(request), timeout);
}

std::shared_ptr<GenerateCall> Client::Generate(v1::GenerateRequest request, GenerateHandler handler,
                                               absl::Duration timeout) {
  return StartGenerate(Environment(), std::move(request), timeout, std::move(handler));
}

absl::StatusOr<std::unique_ptr<Session>> Client::OpenSession(v1::SessionOpen open) {
  return Session::Open(Environment(), std::move(open), options_.deadline);
}

absl::StatusOr<v1::SessionInfo> Client::CreateSession(const v1::OpenSessionRequest& request) {
  return Call(&Target::sessions, request, &v1::Sessions::Stub::Open);
}

absl::StatusOr<v1::SessionInfo> Client::GetSession(std::string_view session_id) {
  v1::GetSessionRequest request;
  request.set_session_id(std::string(session_id));
  return UntilAnswered([&] { return Call(&Target::sessions, request, &v1::Sessions::Stub::Get); });
}

absl::StatusOr<v1::ListSessionsResponse> Client::ListSessions(
    const v1::ListSessionsRequest& request) {
  return Call(&Target::sessions, request, &v1::Sessions::Stub::List);
}

absl::StatusOr<v1::SessionInfo> Client::AppendToSession(v1::AppendRequest request) {
  if (options_.resume_for > absl::ZeroDuration() && request.request_key().empty()) {
    request.set_request_key(RandomRequestKey());
  }
  return UntilAnswered(
      [&] { return Call(&Target::sessions, request, &v1::Sessions::Stub::Append); });
}

absl::StatusOr<v1::SessionInfo> Client::PinSession(std::string_view session_id, bool pinned) {
  v1::PinRequest request;
  request.set_session_id(std::string(session_id));
  request.set_pinned(pinned);
  return Call(&Target::sessions, request, &v1::Sessions::Stub::Pin);
}

absl::StatusOr<v1::CloseSessionResponse> Client::CloseSession(std::string_view session_id) {
  v1::CloseSessionRequest request;
  request.set_session_id(std::string(session_id));
  return Call(&Target::sessions, request, &v1::Sessions::Stub::Close);
}

absl::StatusOr<v1::SessionInfo> Client::ForkSession(std::string_view session_id) {
  v1::ForkRequest request;
  request.set_session_id(std::string(session_id));
  return Call(&Target::sessions, request, &v1::Sessions::Stub::Fork);
}

absl::StatusOr<v1::CheckpointInfo> Client::CheckpointSession(std::string_view session_id,
                                                             std::string_view name) {
  v1::CheckpointRequest request;
  request.set_session_id(std::string(session_id));
  request.set_name(std::string(name));
  return Call(&Target::sessions, request, &v1::Sessions::Stub::Checkpoint);
}

absl::StatusOr<v1::ListCheckpointsResponse> Client::ListCheckpoints(std::string_view session_id) {
  v1::ListCheckpointsRequest request;
  request.set_session_id(std::string(session_id));
  return Call(&Target::sessions, request, &v1::Sessions::Stub::ListCheckpoints);
}

absl::Status Client::DeleteCheckpoint(std::string_view session_id, std::string_view checkpoint) {
  v1::DeleteCheckpointRequest request;
  request.set_session_id(std::string(session_id));
  request.set_checkpoint(std::string(checkpoint));
  return Call(&Target::sessions, request, &v1::Sessions::Stub::DeleteCheckpoint).status();
}

absl::StatusOr<v1::SessionInfo> Client::RewindSession(std::string_view session_id,
                                                      std::string_view checkpoint,
                                                      std::optional<uint64_t> after) {
  v1::RewindRequest request;
  request.set_session_id(std::string(session_id));
  request.set_checkpoint(std::string(checkpoint));
  if (after.has_value()) request.set_after(*after);
  return Call(&Target::sessions, request, &v1::Sessions::Stub::Rewind);
}

absl::StatusOr<v1::SessionInfo> Client::RewindSession(std::string_view session_id,
                                                      int64_t context_tokens,
                                                      std::optional<uint64_t> after) {
  v1::RewindRequest request;
  request.set_session_id(std::string(session_id));
  request.set_context_tokens(context_tokens);
  if (after.has_value()) request.set_after(*after);
  return Call(&Target::sessions, request, &v1::Sessions::Stub::Rewind);
}

absl::StatusOr<std::string> Client::ExportSession(std::string_view session_id) {
  v1::ExportRequest request;
  request.set_session_id(std::string(session_id));
  return UntilAnswered([&]() -> absl::StatusOr<std::string> {
    grpc::ClientContext context;
    Prepare(context, options_.deadline, request.session_id());
    Target& target = targets_.current();
    const auto reader = target.sessions.Export(&context, request);
    std::string blob;
    v1::StateChunk chunk;
    while (reader->Read(&chunk)) blob += chunk.data();
    GMA_RETURN_IF_ERROR(EndOf(target, reader->Finish(), context));
    if (blob.empty()) return absl::DataLossError("the server sent an empty session");
    return blob;
  });
}

absl::StatusOr<v1::SessionInfo> Client::ImportSession(std::string_view blob) {
  constexpr size_t kChunkBytes = 256 << 10;
  grpc::ClientContext context;
  Prepare(context, options_.deadline);
  Target& target = targets_.current();
  v1::SessionInfo response;
  const auto writer = target.sessions.Import(&context, &response);
  v1::StateChunk chunk;
  for (; !blob.empty(); blob.remove_prefix(chunk.data().size())) {
    chunk.set_data(std::string(blob.substr(0, kChunkBytes)));
    if (!writer->Write(chunk)) break;  // the status says why
  }
  writer->WritesDone();
  GMA_RETURN_IF_ERROR(EndOf(target, writer->Finish(), context));
  return response;
}

absl::StatusOr<v1::ListModelsResponse> Client::ListModels() {
  return Call(&Target::models, v1::ListModelsRequest(), &v1::Models::Stub::List);
}

absl::StatusOr<v1::ModelInfo> Client::GetModel(std::string_view model) {
  v1::GetModelRequest request;
  request.set_model(std::string(model));
  return Call(&Target::models, request, &v1::Models::Stub::Get);
}

absl::StatusOr<std::vector<int32_t>> Client::Tokenize(std::string_view model,
                                                      std::string_view text) {
  v1::TokenizeRequest request;
  request.set_model(std::string(model));
  request.set_text(std::string(text));
  GMA_ASSIGN_OR_RETURN(const v1::TokenizeResponse response,
                       Call(&Target::models, request, &v1::Models::Stub::Tokenize));
  return std::vector<int32_t>(response.ids().begin(), response.ids().end());
}

absl::StatusOr<std::string> Client::Detokenize(std::string_view model,
                                               const std::vector<int32_t>& ids) {
  v1::DetokenizeRequest request;
  request.set_model(std::string(model));
  request.mutable_ids()->Add(ids.begin(), ids.end());
  GMA_ASSIGN_OR_RETURN(v1::DetokenizeResponse response,
                       Call(&Target::models, request, &v1::Models::Stub::Detokenize));
  return std::move(*response.mutable_text());
}

}  // namespace gma::client
