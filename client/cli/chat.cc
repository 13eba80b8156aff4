#include "client/cli/chat.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
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
  if (session_ != nullptr && !session_->broken()) return absl::OkStatus();
  if (session_ != nullptr && flags_.session.empty()) {
    terminal_.Note("(the last session is lost; this is a new one)");
  }
  session_.reset();
  v1::SessionOpen open;
  open.set_model(flags_.connection.model);
  open.set_session_id(flags_.session);
  const bool keep = flags_.keep || !flags_.session.empty();
  open.set_keep(keep);
  GMA_ASSIGN_OR_RETURN(session_, client_.OpenSession(std::move(open)));
  fresh_ = session_->opened().context_tokens() == 0;
  if (keep) flags_.session = session_->id();
  return absl::OkStatus();
}

absl::Status Chat::Say(std::string_view text) {
  GMA_RETURN_IF_ERROR(EnsureSession());
  v1::SessionGenerate command;
  *command.mutable_input() = InputOf(text, fresh_);
  *command.mutable_sampling() = flags_.settings.sampling();
  *command.mutable_stop() = flags_.settings.stop();
  const std::unique_ptr<AnswerStream> answer = session_->Generate(std::move(command));
  absl::Status status = Show(*answer);
  // A refused message was not fed: the system text has to come again with the next one.
  if (status.ok()) fresh_ = false;
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
  if (session_ != nullptr && !session_->broken()) status = session_->End().status();
  session_.reset();
  flags_.session.clear();
  fresh_ = true;
  stats_ = {};
  return status;
}

absl::Status Chat::End() {
  if (session_ == nullptr || session_->broken()) return absl::OkStatus();
  GMA_RETURN_IF_ERROR(session_->End().status());
  if (!flags_.session.empty()) {
    terminal_.Remark(absl::StrCat("the session stays open; go on with --session ", flags_.session));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::SessionInfo> Chat::SessionInfo() {
  GMA_RETURN_IF_ERROR(EnsureSession());
  return client_.GetSession(session_->id());
}

}  // namespace gma::client
