// The client of a GMA server. Requests and answers are the messages of proto/gma/v1; this adds the
// connection, the key, deadlines, whole UTF-8, sessions, and statuses that can be trusted: a stream
// that breaks off is never OK.
#ifndef GMA_CLIENT_LIB_CLIENT_H_
#define GMA_CLIENT_LIB_CLIENT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/lib/answer.h"
#include "client/lib/call.h"
#include "client/lib/session.h"
#include "client/lib/targets.h"
#include "gma/v1/generation.grpc.pb.h"
#include "gma/v1/models.grpc.pb.h"
#include "gma/v1/sessions.grpc.pb.h"
#include "grpcpp/channel.h"

namespace gma::client {

struct ClientOptions {
  // host:port; or several, separated by commas: replicas that hold the same sessions. Calls go to
  // one, and to the next when a call to it breaks off.
  std::string address = "127.0.0.1:50051";
  // Sent as "authorization: Bearer <key>". Nothing: the environment's GMA_API_KEY, if there is one.
  std::optional<std::string> api_key;
  bool tls = false;
  std::string tls_ca_file;  // PEM of the authorities to trust; empty: those of the system
  absl::Duration deadline = absl::Seconds(30);  // of each call that is not a stream
  // A call that breaks off (the server dies, restarts or drains, the network fails) is gone on with
  // by itself: answers and sessions that are read by blocking, AppendToSession, GetSession,
  // ExportSession. Nothing comes twice and nothing is lost; what the server refuses is an error at
  // once. So long is it tried without anything new; zero: never, and the break is the error.
  absl::Duration resume_for = absl::Seconds(60);
};

// THREADS: any. Answers and sessions must be destroyed before the client, which then waits for the
// calls that still run; not in a handler of one of them.
class Client {
 public:
  // Connects at the first call.
  // ERRORS: kInvalidArgument for an empty address; as ReadFile for tls_ca_file.
  static absl::StatusOr<std::unique_ptr<Client>> Create(const ClientOptions& options);
  ~Client();

  // Waits until the server answers: it may still be starting, or be loading its model. Gives up
  // after `timeout`, and on every error but "not there yet".
  // ERRORS: kUnavailable naming the address, or the server's own.
  absl::StatusOr<v1::ModelInfo> WaitUntilServing(std::string_view model, absl::Duration timeout);

  // An answer, read by blocking. `timeout` is of the whole answer.
  std::unique_ptr<AnswerStream> Generate(v1::GenerateRequest request,
                                         absl::Duration timeout = absl::InfiniteDuration());
  // The events of the session's last turn after number `after`, and live to its end; takes the turn
  // over from whoever reads it. Nothing when the turn is over and had no more.
  std::unique_ptr<AnswerStream> ResumeSession(std::string_view session_id, uint64_t after,
                                              absl::Duration timeout = absl::InfiniteDuration());
  // An answer, by callbacks; a call that breaks off is at its end.
  std::shared_ptr<GenerateCall> Generate(v1::GenerateRequest request, GenerateHandler handler,
                                         absl::Duration timeout = absl::InfiniteDuration());
  // Opens or resumes a session on a stream of its own.
  // ERRORS: the server's, e.g. kNotFound, kResourceExhausted; kDeadlineExceeded.
  absl::StatusOr<std::unique_ptr<Session>> OpenSession(v1::SessionOpen open);

  // The calls of the services Sessions and Models, one to one.
  // ERRORS: the server's.
  absl::StatusOr<v1::SessionInfo> CreateSession(const v1::OpenSessionRequest& request);
  absl::StatusOr<v1::SessionInfo> GetSession(std::string_view session_id);
  absl::StatusOr<v1::ListSessionsResponse> ListSessions(const v1::ListSessionsRequest& request);
  absl::StatusOr<v1::SessionInfo> AppendToSession(v1::AppendRequest request);
  // A pinned session is never parked.
  absl::StatusOr<v1::SessionInfo> PinSession(std::string_view session_id, bool pinned = true);
  absl::StatusOr<v1::CloseSessionResponse> CloseSession(std::string_view session_id);
  absl::StatusOr<v1::SessionInfo> ForkSession(std::string_view session_id);
  // `name` empty: the server numbers it.
  absl::StatusOr<v1::CheckpointInfo> CheckpointSession(std::string_view session_id,
                                                       std::string_view name = {});
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(std::string_view session_id);
  absl::Status DeleteCheckpoint(std::string_view session_id, std::string_view checkpoint);
  // Waits until the session is there. After kDeadlineExceeded it is still on its way. `after`:
  // number of the last event that was seen of it, from which alone it is taken back.
  absl::StatusOr<v1::SessionInfo> RewindSession(std::string_view session_id,
                                                std::string_view checkpoint,
                                                std::optional<uint64_t> after = std::nullopt);
  absl::StatusOr<v1::SessionInfo> RewindSession(std::string_view session_id, int64_t context_tokens,
                                                std::optional<uint64_t> after = std::nullopt);
  // The session as one sealed blob; it stays on the server. The whole blob is held in memory.
  // ERRORS: kDataLoss for a stream that ended without any.
  absl::StatusOr<std::string> ExportSession(std::string_view session_id);
  // A new session from a blob.
  absl::StatusOr<v1::SessionInfo> ImportSession(std::string_view blob);
  absl::StatusOr<v1::ListModelsResponse> ListModels();
  absl::StatusOr<v1::ModelInfo> GetModel(std::string_view model);
  absl::StatusOr<std::vector<int32_t>> Tokenize(std::string_view model, std::string_view text);
  absl::StatusOr<std::string> Detokenize(std::string_view model, const std::vector<int32_t>& ids);

 private:
  Client(ClientOptions options, std::vector<std::unique_ptr<Target>> targets);
  StreamEnvironment Environment() {
    return {targets_, authorization_, streams_, options_.resume_for};
  }
  void Prepare(grpc::ClientContext& context, absl::Duration timeout,
               const std::string& session_id = {}) const;
  // How a call to `target` ended; after one that broke off the next goes to another server.
  absl::Status EndOf(const Target& target, const grpc::Status& status,
                     const grpc::ClientContext& context);
  template <typename Response, typename Stub, typename Request>
  absl::StatusOr<Response> Call(Stub Target::*stub, const Request& request,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*));
  // The result of `attempt()`, a StatusOr, made again while it breaks off.
  template <typename Attempt>
  auto UntilAnswered(const Attempt& attempt) const;

  const ClientOptions options_;
  std::string authorization_;  // empty: no key
  Targets targets_;
  StreamCount streams_;
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_CLIENT_H_
