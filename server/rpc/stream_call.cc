#include "server/rpc/stream_call.h"

#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/proto_buffer_writer.h"

namespace gma {

grpc::ByteBuffer ToBytes(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  grpc::Slice slice(size);
  // A slice that was just made is ours alone, so its bytes may be written.
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

absl::Status FromBytes(grpc::ByteBuffer bytes, google::protobuf::MessageLite& message) {
  grpc::ProtoBufferReader reader(&bytes);
  if (reader.status().ok() && message.ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return absl::InvalidArgumentError("the request is no valid message of its type");
}

void StreamCall::Send(const google::protobuf::MessageLite& message) {
  if (over()) return;
  outbox_.push_back(ToBytes(message));
}

void StreamCall::End(absl::Status status) {
  if (!status_.has_value()) status_ = std::move(status);
}

void StreamCall::Pump() {
  if (writing_ || finished_) return;
  if (broken_) {
    outbox_.clear();
    End(absl::CancelledError("the client is gone"));
  }
  if (outbox_.empty() && !over()) Refill();
  if (outbox_.empty()) {
    if (!status_.has_value()) return;
    finished_ = true;
    StartGrpcFinish(ToGrpcStatus(*status_, *context_));
    return;
  }
  in_flight_ = outbox_.front();  // shares the bytes
  outbox_.pop_front();
  last_write_ = env_.clock.Monotonic();
  if (outbox_.empty() && status_.has_value()) {
    finished_ = true;
    StartGrpcWriteAndFinish(&in_flight_, ToGrpcStatus(*status_, *context_));
    return;
  }
  writing_ = true;
  StartGrpcWrite(&in_flight_);
}

void StreamCall::Tick() {
  const bool silent = env_.clock.Monotonic() - last_write_ >= env_.heartbeat;
  if (!silent || writing_ || over()) return;
  SendHeartbeat();
  Pump();
}

void StreamCall::EndForShutdown() {
  if (!over()) Abandon();
  End(absl::UnavailableError("the server is shutting down"));
  Pump();
}

void StreamCall::HandleWriteDone(bool ok) {
  writing_ = false;
  if (!ok) return HandleCancel();
  Pump();
}

void StreamCall::HandleCancel() {
  if (!broken_) {
    if (!over()) Abandon();
    broken_ = true;
  }
  Pump();
}

void StreamCall::HandleDone() { env_.dispatcher.Remove(this); }

}  // namespace gma
