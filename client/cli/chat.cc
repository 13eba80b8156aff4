#include "client/cli/chat.h"

#include <fstream>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"

namespace gma::client {
namespace {

// Why an answer ended, when that is worth a word.
const char* Remark(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_LENGTH:
      return "(cut at max_tokens; an empty line goes on)";
    case v1::FINISH_REASON_CANCELLED:
      return "(stopped)";
    default:
      return "";
  }
}

}  // namespace

Chat::Chat(Client& client, ChatFlags& flags, v1::ModelInfo model, Terminal& terminal)
    : client_(client), flags_(flags), model_(std::move(model)), terminal_(terminal) {}

v1::Input Chat::InputOf(std::string_view text, bool fresh) const {
  v1::Input input;
  if (text.empty()) return input;  // go on from where the session stands
  if (flags_.raw) {
    input.set_text(std::string(text));
    return input;
  }
  if (fresh && !flags_.system.empty()) {
    v1::ChatMessage& system = *input.mutable_chat()->add_messages();
    system.set_role("system");
    system.set_content(flags_.system);
  }
  v1::ChatMessage& message = *input.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content(std::string(text));
  return input;
}

absl::Status Chat::EnsureSession() {
  if (here_ != nullptr && !here_->session->broken()) return absl::OkStatus();
  std::string id = flags_.session;
  if (here_ != nullptr) {
    if (here_->keep) id = here_->session->id();
    if (!here_->keep) {
      terminal_.Note("(the last session is lost; this is a new one)");
      EndOne(*here_).IgnoreError();
    }
    Leave();
  }
  return Enter(id, flags_.keep || !id.empty());
}

absl::Status Chat::Enter(const std::string& id, bool keep) {
  v1::SessionOpen open;
  open.set_model(flags_.connection.model);
  open.set_session_id(id);
  open.set_keep(true);
  auto place = std::make_unique<Place>();
  GMA_ASSIGN_OR_RETURN(place->session, client_.OpenSession(std::move(open)));
  place->keep = keep;
  place->fresh = place->session->opened().context_tokens() == 0;
  here_ = place.get();
  places_.push_back(std::move(place));
  if (keep) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  closing_.insert(here_->session->id());
  return absl::OkStatus();
}

absl::Status Chat::EndOne(Place& place) {
  const std::string id = place.session->id();
  absl::Status status = place.session->broken() ? absl::OkStatus() : place.session->End().status();
  {
    absl::MutexLock lock(&mutex_);
    if (closing_.erase(id) == 0) return status;
  }
  // One that expired, or was lost, is gone already.
  const absl::Status closed = client_.CloseSession(id).status();
  if (!absl::IsNotFound(closed)) status.Update(closed);
  return status;
}

void Chat::CloseBeforeExit() {
  std::set<std::string> ids;
  {
    absl::MutexLock lock(&mutex_);
    ids.swap(closing_);
  }
  if (ids.empty()) return;
  const auto done = std::make_shared<absl::Notification>();
  std::thread([this, ids, done] {
    for (const std::string& id : ids) client_.CloseSession(id).status().IgnoreError();
    done->Notify();
  }).detach();
  done->WaitForNotificationWithTimeout(absl::Seconds(1));
}

void Chat::Leave() {
  std::erase_if(places_,
                [this](const std::unique_ptr<Place>& place) { return place.get() == here_; });
  here_ = nullptr;
}

absl::Status Chat::Say(std::string_view text) { return SayWith(text, std::nullopt); }

absl::Status Chat::SayWith(std::string_view text, std::optional<uint64_t> seed) {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo before, SessionInfo());
  v1::SessionGenerate command;
  *command.mutable_input() = InputOf(text, here_->fresh);
  *command.mutable_sampling() = flags_.settings.sampling();
  *command.mutable_stop() = flags_.settings.stop();
  if (seed.has_value()) command.mutable_sampling()->set_seed(*seed);
  const std::unique_ptr<AnswerStream> answer = here_->session->Generate(std::move(command));
  absl::Status status = Show(*answer);
  // A refused message was not fed: the system text has to come again with the next one.
  if (!status.ok()) return status;
  here_->fresh = false;
  here_->turns.push_back({.context_before = before.context_tokens(), .text = std::string(text)});
  return status;
}

absl::Status Chat::SayOnce(std::string_view text) {
  bool fresh = true;
  if (!flags_.session.empty()) {
    GMA_ASSIGN_OR_RETURN(const v1::SessionInfo session, client_.GetSession(flags_.session));
    fresh = session.context_tokens() == 0;
  }
  v1::GenerateRequest request;
  request.set_model(flags_.connection.model);
  request.set_session_id(flags_.session);
  *request.mutable_input() = InputOf(text, fresh);
  *request.mutable_sampling() = flags_.settings.sampling();
  *request.mutable_stop() = flags_.settings.stop();
  const std::unique_ptr<AnswerStream> answer = client_.Generate(std::move(request));
  return Show(*answer);
}

absl::Status Chat::Show(AnswerStream& answer) {
  const absl::Time start = absl::Now();
  {
    absl::MutexLock lock(&mutex_);
    running_ = &answer;
    interrupts_ = 0;
  }
  std::optional<Spinner> spinner;
  if (terminal_.interactive()) spinner.emplace("");
  std::optional<absl::Duration> first_token;
  absl::Status status;
  for (;;) {
    absl::StatusOr<std::optional<AnswerPiece>> piece = answer.Next();
    if (!piece.ok()) status = piece.status();
    if (!piece.ok() || !piece->has_value()) break;
    if (!first_token.has_value()) first_token = absl::Now() - start;
    spinner.reset();
    if (!terminal_.Write((*piece)->text)) {
      status = absl::AbortedError("nobody reads the output any more");
      break;
    }
    if ((*piece)->finished.has_value()) {
      Account(*(*piece)->finished, *first_token, absl::Now() - start);
    }
  }
  spinner.reset();
  {
    absl::MutexLock lock(&mutex_);
    running_ = nullptr;
  }
  terminal_.EndLine();
  if (status.ok()) {
    if (answer.resumes() > 0) terminal_.Note("(the connection broke off and was taken up again)");
    const std::string_view remark = Remark(answer.finished().begin()->second.reason());
    if (!remark.empty()) terminal_.Note(remark);
  }
  return status;
}

void Chat::Account(const v1::Finished& finished, absl::Duration first_token, absl::Duration total) {
  ++stats_.answers;
  stats_.tokens += finished.usage().completion_tokens();
  stats_.last_prompt = finished.usage().prompt_tokens();
  stats_.last_tokens = finished.usage().completion_tokens();
  stats_.last_first_token = first_token;
  stats_.last_total = total;
}

int Chat::Interrupt() {
  absl::MutexLock lock(&mutex_);
  if (running_ == nullptr) return 0;
  if (++interrupts_ == 1) running_->Cancel();
  return interrupts_;
}

absl::Status Chat::StartAnew() {
  absl::Status status;
  if (here_ != nullptr) status = EndOne(*here_);
  Leave();
  flags_.session.clear();
  stats_ = {};
  return status;
}

absl::Status Chat::End() {
  absl::Status status;
  for (const auto& place : places_) {
    const bool broken = place->session->broken();
    status.Update(EndOne(*place));
    if (broken || !place->keep) continue;
    terminal_.Remark(
        absl::StrCat("the session stays open; go on with --session ", place->session->id()));
  }
  return status;
}

absl::StatusOr<std::string> Chat::Fork() {
  GMA_RETURN_IF_ERROR(EnsureSession());
  const Place& from = *here_;
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo fork, client_.ForkSession(from.session->id()));
  GMA_RETURN_IF_ERROR(Enter(fork.session_id(), flags_.keep));
  here_->turns = from.turns;
  here_->saved = from.saved;
  return from.session->id();
}

absl::Status Chat::GoTo(std::string_view id) {
  if (id.empty()) {
    return absl::InvalidArgumentError("the id of a session is missing; /session shows this one's");
  }
  for (const auto& place : places_) {
    if (!place->session->id().starts_with(id)) continue;
    here_ = place.get();
    return absl::OkStatus();
  }
  return Enter(std::string(id), /*keep=*/true);
}

absl::StatusOr<std::string> Chat::Undo() {
  GMA_RETURN_IF_ERROR(EnsureSession());
  if (here_->turns.empty()) {
    return absl::FailedPreconditionError("nothing that was said here is left to undo");
  }
  const Turn last = here_->turns.back();
  GMA_RETURN_IF_ERROR(
      client_
          .RewindSession(here_->session->id(), last.context_before, here_->session->last_sequence())
          .status());
  here_->turns.pop_back();
  here_->fresh = last.context_before == 0;
  return last.text;
}

absl::Status Chat::Retry() {
  GMA_ASSIGN_OR_RETURN(const std::string text, Undo());
  return SayWith(text, std::random_device()());
}

absl::StatusOr<v1::CheckpointInfo> Chat::Save(std::string_view name) {
  GMA_RETURN_IF_ERROR(EnsureSession());
  GMA_ASSIGN_OR_RETURN(v1::CheckpointInfo kept,
                       client_.CheckpointSession(here_->session->id(), name));
  here_->saved[kept.name()] = here_->turns;
  return kept;
}

absl::StatusOr<v1::SessionInfo> Chat::Load(std::string_view name) {
  GMA_RETURN_IF_ERROR(EnsureSession());
  GMA_ASSIGN_OR_RETURN(v1::SessionInfo session, client_.RewindSession(here_->session->id(), name));
  const auto saved = here_->saved.find(std::string(name));
  here_->turns = saved == here_->saved.end() ? std::vector<Turn>() : saved->second;
  here_->fresh = session.context_tokens() == 0;
  return session;
}

absl::Status Chat::Pin(bool pinned) {
  GMA_RETURN_IF_ERROR(EnsureSession());
  return client_.PinSession(here_->session->id(), pinned).status();
}

absl::StatusOr<int64_t> Chat::Export(const std::string& path) {
  GMA_RETURN_IF_ERROR(EnsureSession());
  GMA_ASSIGN_OR_RETURN(const std::string blob, client_.ExportSession(here_->session->id()));
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << blob;
  file.close();
  if (!file.good()) return absl::InvalidArgumentError(absl::StrCat("cannot write ", path));
  return static_cast<int64_t>(blob.size());
}

absl::Status Chat::Import(const std::string& path) {
  constexpr size_t kMostBytes = size_t{4} << 30;
  GMA_ASSIGN_OR_RETURN(const std::string blob, ReadFile(path, kMostBytes));
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo session, client_.ImportSession(blob));
  return Enter(session.session_id(), flags_.keep);
}

absl::StatusOr<v1::SessionInfo> Chat::SessionInfo() {
  GMA_RETURN_IF_ERROR(EnsureSession());
  return client_.GetSession(here_->session->id());
}

}  // namespace gma::client
