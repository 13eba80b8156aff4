// What the engine's thread and its callers share: the mailbox and a few counters.
#ifndef GMA_SERVER_ENGINE_ENGINE_SHARED_H_
#define GMA_SERVER_ENGINE_ENGINE_SHARED_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "base/mailbox.h"
#include "server/engine/engine.h"

namespace gma {

struct GenerateMessage {
  GenerateSpec spec;
  std::shared_ptr<TokenStream> stream;
  absl::Duration accepted_at;
};
struct AppendMessage {
  AppendSpec spec;
  EngineCallback<SessionSnapshotInfo> done;
  absl::Duration accepted_at;
};
struct BargeInMessage {
  AppendSpec spec;
  EngineCallback<SessionSnapshotInfo> done;
  absl::Duration accepted_at;
};
struct ResumeMessage {
  ResumeSpec spec;
  std::shared_ptr<TokenStream> stream;
};
struct CancelMessage {
  std::shared_ptr<TokenStream> stream;
  bool by_client;
};
struct OpenMessage {
  OpenSpec spec;
  EngineCallback<SessionSnapshotInfo> done;
};
struct GetMessage {
  std::string owner;
  SessionId id;
  EngineCallback<SessionSnapshotInfo> done;
};
struct ListMessage {
  std::string owner;
  std::optional<SessionId> after;
  int32_t limit;
  EngineCallback<std::vector<SessionSnapshotInfo>> done;
  std::vector<StoredEntry> stored = {};  // what the store has said so far, and up to where it did
  std::string stored_after = {};
};
struct CloseMessage {
  std::string owner;
  SessionId id;
  EngineCallback<SessionSnapshotInfo> done;
};

struct ForkMessage {
  std::string owner;
  SessionId id;
  EngineCallback<SessionSnapshotInfo> done;
};
struct CheckpointMessage {
  std::string owner;
  SessionId id;
  std::string name;
  EngineCallback<CheckpointInfo> done;
};
struct ListCheckpointsMessage {
  std::string owner;
  SessionId id;
  EngineCallback<std::vector<CheckpointInfo>> done;
};
struct DeleteCheckpointMessage {
  std::string owner;
  SessionId id;
  std::string name;
  EngineCallback<SessionSnapshotInfo> done;
};
struct PinMessage {
  std::string owner;
  SessionId id;
  bool pinned;
  EngineCallback<SessionSnapshotInfo> done;
};
struct ExportMessage {
  std::string owner;
  SessionId id;
  EngineCallback<SessionImage> done;
};
struct ImportMessage {
  std::string owner;
  SessionImage image;
  EngineCallback<SessionSnapshotInfo> done;
};
struct RewindMessage {
  RewindSpec spec;
  EngineCallback<SessionSnapshotInfo> done;
  absl::Duration accepted_at;
};

// The rest of a session's recovery, once its row is in the pool.
struct RecoverMessage {
  std::string owner;
  SessionId id;
  EngineCallback<SessionSnapshotInfo> done;  // called when it cannot be
};
// What another thread has for the engine's.
struct WorkMessage {
  absl::AnyInvocable<void()> run;
};

using EngineMessage =
    std::variant<GenerateMessage, AppendMessage, BargeInMessage, ResumeMessage, CancelMessage,
                 OpenMessage, GetMessage, ListMessage, CloseMessage, ForkMessage, CheckpointMessage,
                 ListCheckpointsMessage, DeleteCheckpointMessage, PinMessage, ExportMessage,
                 ImportMessage, RewindMessage, RecoverMessage, WorkMessage>;

// Shared with token streams too, whose readers may outlive the engine. THREADS: any.
struct EngineShared {
  explicit EngineShared(size_t mailbox_capacity) : mailbox(mailbox_capacity) {}

  Mailbox<EngineMessage> mailbox;
  std::atomic<bool> draining{false};
  // A turn counts as waiting from the moment it is accepted, before it is posted: this bounds the
  // queue and lets Drained see what is still in the mailbox.
  std::atomic<int64_t> waiting{0};
  std::atomic<int64_t> running{0};
  std::atomic<int32_t> rows_used{0};
  std::atomic<int64_t> retry_after_ms{1000};  // hint for callers that are refused
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_ENGINE_SHARED_H_
