// Generation.Session: a conversation on one session.
#ifndef GMA_SERVER_RPC_SESSION_CALL_H_
#define GMA_SERVER_RPC_SESSION_CALL_H_

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "grpcpp/support/server_callback.h"
#include "server/rpc/convert.h"
#include "server/rpc/events.h"
#include "server/rpc/stream_call.h"

namespace gma {

// Commands are taken in their order. The next one is read once the last was taken, but for Open and
// input (Append, barge-in), whose answer is awaited first; so a client may send Append and Generate
// back to back, and input, Cancel, Credit and End are seen while a turn is active. Input that
// enters a turn is answered by the engine within one step.
//
// Phases: kNew -> kOpening -> kIdle; kIdle <-> kTurn (generate, resume); kIdle, kTurn -> kEnding
// (End) -> the call is over. Any phase -> over, when the client is gone, sends what does not parse,
// or breaks off without End.
//
// THREADS: messages are parsed and tokenised on gRPC's threads (OnReadDone); everything else runs
// on the dispatcher's.
class SessionCall final
    : public ReactorCall<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  static grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Start(
      RpcEnvironment& env, grpc::CallbackServerContext* context);

  void OnReadDone(bool ok) final;

 private:
  using ReactorCall::ReactorCall;

  struct Cancel {
    std::optional<InputTokens> input;
  };
  struct Credit {
    int64_t tokens;
  };
  struct EndCommand {};
  struct Command {
    uint64_t request_id = 0;
    std::variant<std::monostate, ConvertedOpen, ConvertedAppend, GenerateSpec, Cancel, Credit,
                 EndCommand>
        action;
    absl::Status status;  // why there is no action
    bool fatal = false;   // the stream ends with `status`
  };
  enum class Phase { kNew, kOpening, kIdle, kTurn, kEnding };

  Command ReadCommand();
  absl::Status ConvertCommand(const v1::SessionRequest& request, Command& command) const;

  void Take(Command command);
  void TakeOpen(uint64_t request_id, const ConvertedOpen& open);
  void TakeAppend(uint64_t request_id, ConvertedAppend append);
  void TakeCancel(uint64_t request_id, Cancel cancel);
  using AppendCall = void (Engine::*)(AppendSpec, EngineCallback<SessionSnapshotInfo>);
  void HandOn(uint64_t request_id, ConvertedAppend append, AppendCall call);
  void TakeGenerate(uint64_t request_id, GenerateSpec spec);
  void TakeEnd(uint64_t request_id);
  void ReadNext();

  void HandleOpened(uint64_t request_id, absl::StatusOr<SessionSnapshotInfo> info,
                    const ConvertedOpen& open);
  // Takes the stream of a turn, whose events answer the message `request_id`.
  void BeginTurn(uint64_t request_id, absl::StatusOr<std::shared_ptr<TokenStream>> stream);
  // What a stream calls when there is something to take.
  absl::AnyInvocable<void()> Notice();
  void HandleAppended(uint64_t request_id, absl::StatusOr<SessionSnapshotInfo> info);
  void HandleTurnEnd(const absl::Status& status);
  // Closes the session unless it is kept, then says `ended`.
  void SayGoodbye();
  void HandleGoodbye(absl::StatusOr<SessionSnapshotInfo> info);
  void CloseUnlessKept();

  v1::SessionResponse NewResponse(uint64_t request_id);
  // A command failed: says so, or ends the stream when the session is lost with it.
  void Reject(uint64_t request_id, const absl::Status& status);

  void Refill() final;
  void Abandon() final;
  void SendHeartbeat() final;

  // Runs `handle` with the engine's answer, on the dispatcher's thread.
  template <typename Handle>
  EngineCallback<SessionSnapshotInfo> Callback(Handle handle);

  std::string owner_;
  grpc::ByteBuffer incoming_;  // gRPC's between StartRead and OnReadDone
  Phase phase_ = Phase::kNew;
  std::optional<SessionId> session_;
  bool keep_ = false;
  int64_t credit_ = 0;                   // tokens that may still be sent
  std::shared_ptr<TokenStream> stream_;  // of the active turn
  bool awaits_append_ = false;           // input was handed on and not answered
  uint64_t end_request_ = 0;
  AnswerLabels labels_;
  std::vector<StreamEvent> events_;  // scratch
};

}  // namespace gma

#endif  // GMA_SERVER_RPC_SESSION_CALL_H_
