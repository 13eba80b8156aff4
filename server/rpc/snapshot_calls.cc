#include "server/rpc/snapshot_calls.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "server/options/limits.h"
#include "server/rpc/convert.h"
#include "server/rpc/session_info.h"
#include "server/session/session_image.h"
#include "server/session/snapshot.h"

namespace gma {
namespace {

constexpr size_t kChunkBytes = 256 << 10;

// One write in flight; the next chunk is sealed when the last has gone out.
class ExportCall final : public grpc::ServerWriteReactor<v1::StateChunk> {
 public:
  ExportCall(RpcEnvironment& env, grpc::CallbackServerContext* context)
      : env_(env), context_(context) {}

  void Begin(const v1::ExportRequest& request) {
    if (absl::Status status = Ask(request); !status.ok()) {
      Finish(ToGrpcStatus(Refused(std::move(status), env_), *context_));
    }
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(ToGrpcStatus(absl::CancelledError("the caller is gone"), *context_));
    WriteNext();
  }
  void OnDone() override { delete this; }

 private:
  absl::Status Ask(const v1::ExportRequest& request) {
    GMA_ASSIGN_OR_RETURN(owner_, OwnerOf(*context_, env_));
    GMA_ASSIGN_OR_RETURN(const SessionId id, ConvertSessionId(request.session_id()));
    GMA_ASSIGN_OR_RETURN(slot_, env_.moves.Take(owner_));
    env_.engine.Export(owner_, id, [this](absl::StatusOr<SessionImage> image) {
      // Off the engine's thread: sealing takes its time.
      env_.dispatcher.Post([this, image = std::move(image)]() mutable { Take(std::move(image)); });
    });
    return absl::OkStatus();
  }

  void Take(absl::StatusOr<SessionImage> image) {
    if (!image.ok()) return Finish(ToGrpcStatus(image.status(), *context_));
    writer_.emplace(env_.snapshots,
                    SnapshotLabel{.owner = owner_, .created_at = absl::Now(), .id = {}},
                    *std::move(image));
    WriteNext();
  }

  void WriteNext() {
    *chunk_.mutable_data() = writer_->Next(kChunkBytes);
    if (chunk_.data().empty()) return Finish(grpc::Status::OK);
    StartWrite(&chunk_);
  }

  RpcEnvironment& env_;
  grpc::CallbackServerContext* const context_;
  std::string owner_;
  OwnerSlots::Slot slot_;
  std::optional<SnapshotWriter> writer_;
  v1::StateChunk chunk_;  // untouched until its write is done
};

class ImportCall final : public grpc::ServerReadReactor<v1::StateChunk> {
 public:
  ImportCall(RpcEnvironment& env, grpc::CallbackServerContext* context, v1::SessionInfo* response)
      : env_(env), context_(context), response_(response) {}

  void Begin() {
    if (absl::Status status = Ask(); !status.ok()) return Refuse(std::move(status));
    StartRead(&chunk_);
  }

  void OnReadDone(bool ok) override {
    absl::Status status = ok ? Add() : Import();
    if (!status.ok()) return Refuse(std::move(status));
    if (ok) StartRead(&chunk_);
  }
  void OnDone() override { delete this; }

 private:
  absl::Status Ask() {
    GMA_ASSIGN_OR_RETURN(owner_, OwnerOf(*context_, env_));
    GMA_ASSIGN_OR_RETURN(slot_, env_.moves.Take(owner_));
    reader_.emplace(env_.snapshots, owner_);
    return absl::OkStatus();
  }

  absl::Status Add() {
    GMA_RETURN_IF_ERROR(CheckLimit(limits::kStateChunk, chunk_.data().size()));
    return reader_->Add(chunk_.data());
  }

  // The client has sent everything, or broke off: then it is cut.
  absl::Status Import() {
    GMA_ASSIGN_OR_RETURN(SessionImage image, (*std::move(reader_)).Finish());
    env_.engine.Import(owner_, std::move(image), [this](absl::StatusOr<SessionSnapshotInfo> info) {
      env_.dispatcher.Post([this, info = std::move(info)] {
        if (info.ok()) FillInfo(*info, env_.model, *response_);
        Finish(ToGrpcStatus(info.status(), *context_));
      });
    });
    return absl::OkStatus();
  }

  void Refuse(absl::Status status) {
    Finish(ToGrpcStatus(Refused(std::move(status), env_), *context_));
  }

  RpcEnvironment& env_;
  grpc::CallbackServerContext* const context_;
  v1::SessionInfo* const response_;
  std::string owner_;
  OwnerSlots::Slot slot_;
  std::optional<SnapshotReader> reader_;
  v1::StateChunk chunk_;
};

}  // namespace

grpc::ServerWriteReactor<v1::StateChunk>* StartExport(RpcEnvironment& env,
                                                      grpc::CallbackServerContext* context,
                                                      const v1::ExportRequest& request) {
  auto* call = new ExportCall(env, context);
  call->Begin(request);
  return call;
}

grpc::ServerReadReactor<v1::StateChunk>* StartImport(RpcEnvironment& env,
                                                     grpc::CallbackServerContext* context,
                                                     v1::SessionInfo* response) {
  auto* call = new ImportCall(env, context, response);
  call->Begin();
  return call;
}

}  // namespace gma
