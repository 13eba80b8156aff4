// The writing half of a streaming call: an outbox, one write in flight, heartbeats, one Finish.
#ifndef GMA_SERVER_RPC_STREAM_CALL_H_
#define GMA_SERVER_RPC_STREAM_CALL_H_

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/rpc/call_context.h"
#include "server/rpc/dispatcher.h"

namespace gma {

// Bytes of a message for the wire.
grpc::ByteBuffer ToBytes(const google::protobuf::MessageLite& message);
// Reads a message from the wire. Requests come as raw bytes, because gRPC reports bytes that do not
// parse exactly as it reports a client that has finished.
// ERRORS: kInvalidArgument.
absl::Status FromBytes(grpc::ByteBuffer bytes, google::protobuf::MessageLite& message);

// THREADS: the dispatcher's, except construction.
class StreamCall : public LiveCall, public std::enable_shared_from_this<StreamCall> {
 public:
  void Tick() final;
  void EndForShutdown() final;

 protected:
  StreamCall(RpcEnvironment& env, grpc::CallbackServerContext* context)
      : env_(env), context_(context), last_write_(env.clock.Monotonic()) {}

  // Queues a message; nothing is sent after End.
  void Send(const google::protobuf::MessageLite& message);
  // Ends the call after what is queued; the first status counts.
  void End(absl::Status status);
  // Starts what can be started: a write, else the finish. Call after Send, End and news.
  void Pump();
  // The client is gone. THREADS: any.
  bool client_gone() const { return client_gone_; }
  // The client is gone, or End was called.
  bool over() const { return broken_ || status_.has_value(); }

  // Everything was written: the place to Send more.
  virtual void Refill() = 0;
  // The client is gone (once): let go of the engine's work. The call finishes by itself.
  virtual void Abandon() = 0;
  virtual void SendHeartbeat() = 0;

  // What gRPC does with it.
  virtual void StartGrpcWrite(const grpc::ByteBuffer* message) = 0;
  virtual void StartGrpcWriteAndFinish(const grpc::ByteBuffer* message, grpc::Status status) = 0;
  virtual void StartGrpcFinish(grpc::Status status) = 0;

  void HandleWriteDone(bool ok);
  void HandleCancel();
  void HandleDone();

  RpcEnvironment& env_;
  grpc::CallbackServerContext* const context_;
  std::atomic<bool> client_gone_{false};

 private:
  std::deque<grpc::ByteBuffer> outbox_;
  grpc::ByteBuffer in_flight_;  // untouched until its write is done
  std::optional<absl::Status> status_;
  bool writing_ = false, broken_ = false, finished_ = false;
  absl::Duration last_write_;  // monotonic
};

// Joins StreamCall to gRPC's reactor `Reactor` (of ByteBuffers): reactions only enqueue. The call
// owns itself until OnDone; tasks under way hold it a little longer.
template <typename Reactor>
class ReactorCall : public Reactor, public StreamCall {
 public:
  void OnWriteDone(bool ok) final {
    Enqueue([ok](ReactorCall& call) { call.HandleWriteDone(ok); });
  }
  void OnCancel() final {
    client_gone_ = true;
    Enqueue([](ReactorCall& call) { call.HandleCancel(); });
  }
  void OnDone() final {
    env_.dispatcher.Post([self = std::move(self_)]() mutable { self->HandleDone(); });
  }

 protected:
  using StreamCall::StreamCall;

  // Call once, before the reactor is given to gRPC.
  void OwnItself() {
    self_ = std::static_pointer_cast<ReactorCall>(shared_from_this());
    Enqueue([](ReactorCall& call) { call.Register(); });
  }

  // Runs `action` on the dispatcher's thread.
  template <typename Action>
  void Enqueue(Action action) {
    env_.dispatcher.Post([self = std::static_pointer_cast<ReactorCall>(shared_from_this()),
                          action = std::move(action)]() mutable { action(*self); });
  }

 private:
  void Register() {
    env_.dispatcher.Add(this);
    if (env_.dispatcher.ending()) EndForShutdown();
  }
  void StartGrpcWrite(const grpc::ByteBuffer* message) final { this->StartWrite(message); }
  void StartGrpcWriteAndFinish(const grpc::ByteBuffer* message, grpc::Status status) final {
    this->StartWriteAndFinish(message, grpc::WriteOptions(), std::move(status));
  }
  void StartGrpcFinish(grpc::Status status) final { Reactor::Finish(std::move(status)); }

  std::shared_ptr<ReactorCall> self_;
};

}  // namespace gma

#endif  // GMA_SERVER_RPC_STREAM_CALL_H_
