#include "server/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "server/engine/engine_core.h"
#include "server/engine/engine_shared.h"
#include "server/engine/retry_hint.h"

namespace gma {
namespace {

constexpr int64_t kMaxCredit = 1 << 20;      // tokens, what grants can add up to
constexpr size_t kMostAnswers = 16;          // of one request, drawn in one step
constexpr size_t kSessionCallPlaces = 1024;  // of the mailbox, besides those of waiting turns

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, CompiledDecoder& decoder, TokenTextFunction token_text,
             const Clock& clock, Metrics& metrics, std::unique_ptr<StatePool> pool,
             std::unique_ptr<Keeper> keeper)
      : options_(options),
        clock_(clock),
        metrics_(metrics),
        rows_total_(pool->capacity()),
        shared_(std::make_shared<EngineShared>(static_cast<size_t>(options.max_waiting) +
                                               kSessionCallPlaces)),
        keeper_(std::move(keeper)),
        core_(options, decoder, std::move(token_text), clock, metrics, std::move(pool), shared_,
              keeper_.get()) {
    if (keeper_ == nullptr) return;
    keeper_->Start([shared = shared_](absl::AnyInvocable<void()> work) {
      shared->mailbox.PostUnbounded(WorkMessage{.run = std::move(work)});
    });
  }
  ~EngineImpl() override { Shutdown(); }

  absl::StatusOr<std::shared_ptr<TokenStream>> Generate(GenerateSpec spec,
                                                        absl::AnyInvocable<void()> notify) override;
  absl::StatusOr<std::shared_ptr<TokenStream>> Resume(ResumeSpec spec,
                                                      absl::AnyInvocable<void()> notify) override;
  void Cancel(const std::shared_ptr<TokenStream>& stream, bool by_client) override;
  void AddCredit(const std::shared_ptr<TokenStream>& stream, int64_t tokens) override {
    stream->AddCredit(tokens, kMaxCredit);
  }

  void Open(OpenSpec spec, EngineCallback<SessionSnapshotInfo> done) override;
  void Append(AppendSpec spec, EngineCallback<SessionSnapshotInfo> done) override {
    PostTurn<AppendMessage>(std::move(spec), std::move(done));
  }
  void CancelAndAppend(AppendSpec spec, EngineCallback<SessionSnapshotInfo> done) override {
    PostTurn<BargeInMessage>(std::move(spec), std::move(done));
  }
  void Get(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) override {
    PostCall(GetMessage{.owner = std::move(owner), .id = id, .done = std::move(done)});
  }
  void List(std::string owner, std::optional<SessionId> after, int32_t limit,
            EngineCallback<std::vector<SessionSnapshotInfo>> done) override {
    PostCall(ListMessage{
        .owner = std::move(owner), .after = after, .limit = limit, .done = std::move(done)});
  }
  void Close(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) override;
  void Fork(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) override;
  void Checkpoint(std::string owner, SessionId id, std::string name,
                  EngineCallback<CheckpointInfo> done) override {
    PostCall(CheckpointMessage{
        .owner = std::move(owner), .id = id, .name = std::move(name), .done = std::move(done)});
  }
  void ListCheckpoints(std::string owner, SessionId id,
                       EngineCallback<std::vector<CheckpointInfo>> done) override {
    PostCall(ListCheckpointsMessage{.owner = std::move(owner), .id = id, .done = std::move(done)});
  }
  void DeleteCheckpoint(std::string owner, SessionId id, std::string name,
                        EngineCallback<SessionSnapshotInfo> done) override {
    PostCall(DeleteCheckpointMessage{
        .owner = std::move(owner), .id = id, .name = std::move(name), .done = std::move(done)});
  }
  void Pin(std::string owner, SessionId id, bool pinned,
           EngineCallback<SessionSnapshotInfo> done) override {
    PostCall(
        PinMessage{.owner = std::move(owner), .id = id, .pinned = pinned, .done = std::move(done)});
  }
  void Export(std::string owner, SessionId id, EngineCallback<SessionImage> done) override {
    PostCall(ExportMessage{.owner = std::move(owner), .id = id, .done = std::move(done)});
  }
  void Import(std::string owner, SessionImage image,
              EngineCallback<SessionSnapshotInfo> done) override;
  void Rewind(RewindSpec spec, EngineCallback<SessionSnapshotInfo> done) override {
    PostTurn<RewindMessage>(std::move(spec), std::move(done));
  }

  EngineStatus GetStatus() const override {
    return {.rows_used = shared_->rows_used.load(),
            .rows_total = rows_total_,
            .requests_running = shared_->running.load(),
            .requests_waiting = shared_->waiting.load()};
  }

  bool Tick() override { return core_.Tick(); }
  void CheckOwnership() const override { core_.CheckOwnership(); }
  void Start() override;
  void BeginDrain() override {
    shared_->draining = true;
    shared_->mailbox.Wake();  // detached turns end
  }
  bool Drained() const override {
    return shared_->waiting.load() == 0 && shared_->running.load() == 0;
  }
  void Shutdown() override;

 private:
  void Run();
  std::shared_ptr<TokenStream> NewStream(int64_t credit, absl::AnyInvocable<void()> notify);
  // Takes a place in the queue of waiting turns. ERRORS: kResourceExhausted, kUnavailable.
  absl::Status TakePlace();
  // A refusal before anything was allocated for the request.
  absl::Status Refuse(RejectReasonLabel reason);
  // Why a message could not be posted.
  absl::Status RefusePost();
  // Posts a call that answers through `done`, or answers it here.
  template <typename Message>
  void PostCall(Message message);
  // Likewise for a turn that answers through `done`.
  template <typename Message, typename Spec>
  void PostTurn(Spec spec, EngineCallback<SessionSnapshotInfo> done);

  const EngineOptions options_;
  const Clock& clock_;
  Metrics& metrics_;
  const int32_t rows_total_;
  const std::shared_ptr<EngineShared> shared_;
  const std::unique_ptr<Keeper> keeper_;  // null: there is no store
  EngineCore core_;
  std::atomic<bool> stopping_{false};
  bool shut_down_ = false;
  std::thread thread_;
};

absl::Status EngineImpl::Refuse(RejectReasonLabel reason) {
  metrics_.admission_rejected[reason]->Increment();
  absl::Status status =
      reason == RejectReasonLabel::kDraining
          ? absl::UnavailableError("the server is draining and takes no new work")
          : RetryLater(absl::StrCat("the queue is full, limit ", options_.max_waiting),
                       shared_->retry_after_ms.load());
  metrics_.request_error[status.code()]->Increment();
  return status;
}

absl::Status EngineImpl::RefusePost() {
  return Refuse(shared_->draining ? RejectReasonLabel::kDraining : RejectReasonLabel::kQueueFull);
}

absl::Status EngineImpl::TakePlace() {
  const bool full = shared_->waiting.fetch_add(1) >= options_.max_waiting;
  // Looked at after the place was taken: whoever sees the drained state then sees this one refused.
  if (!full && !shared_->draining) return absl::OkStatus();
  shared_->waiting.fetch_sub(1);
  return RefusePost();
}

absl::StatusOr<std::shared_ptr<TokenStream>> EngineImpl::Generate(
    GenerateSpec spec, absl::AnyInvocable<void()> notify) {
  GMA_RETURN_IF_ERROR(TakePlace());
  auto stream = NewStream(spec.initial_credit, std::move(notify));
  EngineMessage message =
      GenerateMessage{.spec = std::move(spec), .stream = stream, .accepted_at = clock_.Monotonic()};
  if (shared_->mailbox.Post(std::move(message))) return stream;
  shared_->waiting.fetch_sub(1);
  return RefusePost();
}

std::shared_ptr<TokenStream> EngineImpl::NewStream(int64_t credit,
                                                   absl::AnyInvocable<void()> notify) {
  return std::make_shared<TokenStream>(options_.stream_capacity, credit, std::move(notify),
                                       [shared = shared_] { shared->mailbox.Wake(); });
}

absl::StatusOr<std::shared_ptr<TokenStream>> EngineImpl::Resume(ResumeSpec spec,
                                                                absl::AnyInvocable<void()> notify) {
  auto stream = NewStream(spec.initial_credit, std::move(notify));
  EngineMessage message = ResumeMessage{.spec = std::move(spec), .stream = stream};
  if (shared_->mailbox.Post(std::move(message))) return stream;
  return RefusePost();
}

void EngineImpl::Cancel(const std::shared_ptr<TokenStream>& stream, bool by_client) {
  if (!by_client) stream->Cancel();
  // Once the mailbox is closed, Shutdown ends the request.
  shared_->mailbox.PostUnbounded(CancelMessage{.stream = stream, .by_client = by_client});
}

template <typename Message>
void EngineImpl::PostCall(Message message) {
  EngineMessage posted = std::move(message);
  if (shared_->mailbox.Post(std::move(posted))) return;
  // A refused message is untouched. NOLINTNEXTLINE(bugprone-use-after-move)
  std::get<Message>(posted).done(RefusePost());
}

void EngineImpl::Open(OpenSpec spec, EngineCallback<SessionSnapshotInfo> done) {
  if (shared_->draining) return done(Refuse(RejectReasonLabel::kDraining));
  PostCall(OpenMessage{.spec = std::move(spec), .done = std::move(done)});
}

void EngineImpl::Fork(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) {
  if (shared_->draining) return done(Refuse(RejectReasonLabel::kDraining));
  PostCall(ForkMessage{.owner = std::move(owner), .id = id, .done = std::move(done)});
}

void EngineImpl::Import(std::string owner, SessionImage image,
                        EngineCallback<SessionSnapshotInfo> done) {
  if (shared_->draining) return done(Refuse(RejectReasonLabel::kDraining));
  PostCall(
      ImportMessage{.owner = std::move(owner), .image = std::move(image), .done = std::move(done)});
}

template <typename Message, typename Spec>
void EngineImpl::PostTurn(Spec spec, EngineCallback<SessionSnapshotInfo> done) {
  if (absl::Status status = TakePlace(); !status.ok()) return done(status);
  EngineMessage message =
      Message{.spec = std::move(spec), .done = std::move(done), .accepted_at = clock_.Monotonic()};
  if (shared_->mailbox.Post(std::move(message))) return;
  shared_->waiting.fetch_sub(1);
  // A refused message is untouched. NOLINTNEXTLINE(bugprone-use-after-move)
  std::get<Message>(message).done(RefusePost());
}

void EngineImpl::Close(std::string owner, SessionId id, EngineCallback<SessionSnapshotInfo> done) {
  // A full mailbox must not refuse what frees a row.
  EngineMessage message =
      CloseMessage{.owner = std::move(owner), .id = id, .done = std::move(done)};
  if (shared_->mailbox.PostUnbounded(std::move(message))) return;
  std::get<CloseMessage>(message).done(RefusePost());
}

void EngineImpl::Start() {
  GMA_CHECK(!thread_.joinable());
  thread_ = std::thread([this] { Run(); });
}

void EngineImpl::Run() {
  while (!stopping_) {
    if (core_.Tick()) continue;
    const absl::Duration left = core_.NextTimer() - clock_.Monotonic();
    shared_->mailbox.WaitForMessage(std::max(left, absl::ZeroDuration()));
  }
}

void EngineImpl::Shutdown() {
  if (std::exchange(shut_down_, true)) return;
  shared_->draining = true;
  stopping_ = true;
  shared_->mailbox.Wake();
  if (thread_.joinable()) thread_.join();
  // From here on this thread is the engine's; what was posted before the box closed is ended too.
  shared_->mailbox.Close();
  core_.EndAll();
  if (keeper_ != nullptr) core_.SaveAll();
}

}  // namespace

absl::Status TakenOverError() {
  return absl::AbortedError("another client resumed this turn; the newer one goes on with it");
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       CompiledDecoder& decoder,
                                                       TokenTextFunction token_text,
                                                       const Clock& clock, Metrics& metrics,
                                                       std::unique_ptr<Keeper> keeper) {
  GMA_CHECK(options.max_batch_rows >= 1 && options.max_step_tokens >= 1);
  GMA_CHECK(options.max_waiting >= 1 && options.stream_capacity >= kMostAnswers);
  GMA_CHECK(options.resume_events >= 1);
  GMA_ASSIGN_OR_RETURN(
      std::unique_ptr<StatePool> pool,
      StatePool::Create(decoder.state_layout(), options.max_sessions, decoder.row_memory()));
  return std::make_unique<EngineImpl>(options, decoder, std::move(token_text), clock, metrics,
                                      std::move(pool), std::move(keeper));
}

}  // namespace gma
