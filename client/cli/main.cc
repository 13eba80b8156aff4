// gma-chat: a chat with a GMA server in the terminal, or in a pipe.
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/cli/chat.h"
#include "client/cli/commands.h"
#include "client/cli/flags.h"
#include "client/cli/line_editor.h"
#include "client/cli/terminal.h"
#include "client/lib/status.h"

namespace gma::client {
namespace {

// What a signal does depends on what the program is doing.
class Signals {
 public:
  // `chat` may be null: none runs.
  void Watch(Chat* chat, bool interactive) {
    absl::MutexLock lock(&mutex_);
    chat_ = chat;
    interactive_ = interactive;
  }

  // On a thread of its own.
  void On(int signal) {
    absl::MutexLock lock(&mutex_);
    if (signal == SIGINT && interactive_ && chat_ != nullptr) {
      // Whoever presses it three times during one answer has given up on the server.
      if (chat_->Interrupt() < 3) return;
    }
    if (chat_ != nullptr) chat_->CloseBeforeExit();
    Terminal::Restore();
    _exit(128 + signal);
  }

 private:
  absl::Mutex mutex_;
  Chat* chat_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool interactive_ ABSL_GUARDED_BY(mutex_) = false;
};

Signals signals;

int Fail(Terminal& terminal, const absl::Status& status) {
  terminal.Error(OneLine(status));
  return kExitFailure;
}

// A message or a command. Nothing: the program ends.
absl::StatusOr<Next> Do(Chat& chat, const std::string& line) {
  if (IsCommand(line)) return RunCommand(chat, line);
  const absl::Status status = chat.Say(MessageOf(line));
  if (!status.ok()) return status;
  return Next::kGoOn;
}

int ChatAtTerminal(Chat& chat, Terminal& terminal) {
  terminal.Note(absl::StrCat(chat.model().name(), ", ", Grouped(chat.model().parameter_count()),
                             " parameters. ", "The whole conversation is ",
                             Grouped(chat.model().state_bytes()),
                             " bytes, at any length. /help lists the commands, Ctrl-D ends."));
  LineEditor editor(DefaultHistoryFile(), terminal.colour());
  for (;;) {
    const LineEditor::Line line = editor.Read();
    if (line.kind == LineEditor::Kind::kEnd) break;
    if (line.kind == LineEditor::Kind::kInterrupted) continue;
    if (line.text.empty() && chat.stats().answers == 0) continue;
    const absl::StatusOr<Next> next = Do(chat, line.text);
    if (!next.ok()) terminal.Error(OneLine(next.status()));
    if (next.ok() && *next == Next::kQuit) return chat.End().ok() ? kExitOk : kExitFailure;
  }
  terminal.Write("\n");  // behind the prompt
  return chat.End().ok() ? kExitOk : kExitFailure;
}

// The next message of a pipe: lines are joined where they end in a backslash.
bool ReadMessage(std::istream& in, std::string& message) {
  message.clear();
  std::string line;
  bool any = false;
  while (std::getline(in, line)) {
    any = true;
    if (line.empty() || line.back() != '\\') {
      message += line;
      return true;
    }
    line.back() = '\n';
    message += line;
  }
  return any;
}

int ChatInPipe(Chat& chat, Terminal& terminal) {
  std::string message;
  while (ReadMessage(std::cin, message)) {
    if (message.find_first_not_of(" \t\r\n") == std::string::npos) continue;
    const absl::StatusOr<Next> next = Do(chat, message);
    if (!next.ok()) return Fail(terminal, next.status());
    if (*next == Next::kQuit) break;
  }
  const absl::Status status = chat.End();
  return status.ok() ? kExitOk : Fail(terminal, status);
}

int Run(ChatFlags& flags, Terminal& terminal) {
  const absl::StatusOr<std::unique_ptr<Client>> client =
      Client::Create(OptionsOf(flags.connection));
  if (!client.ok()) {
    terminal.Error(OneLine(client.status()));
    return kExitUsage;
  }
  absl::StatusOr<v1::ModelInfo> model;
  {
    const Spinner spinner(absl::StrCat("waiting for the server at ", flags.connection.server));
    model = (*client)->WaitUntilServing(flags.connection.model,
                                        absl::Seconds(flags.connection.connect_timeout));
  }
  if (!model.ok()) return Fail(terminal, model.status());
  if (!model->has_chat_format() && !flags.raw) {
    flags.raw = true;
    terminal.Remark("this model has no chat format: as with --raw, it continues the text");
  }

  Chat chat(**client, flags, *std::move(model), terminal);
  const bool interactive = terminal.interactive() && !flags.prompt.has_value();
  signals.Watch(&chat, interactive);
  int code = kExitOk;
  if (flags.prompt.has_value()) {
    absl::Status status = flags.keep ? chat.Say(*flags.prompt) : chat.SayOnce(*flags.prompt);
    if (flags.keep) status.Update(chat.End());
    if (!status.ok()) code = Fail(terminal, status);
  } else if (interactive) {
    code = ChatAtTerminal(chat, terminal);
  } else {
    code = ChatInPipe(chat, terminal);
  }
  signals.Watch(nullptr, false);
  return code;
}

}  // namespace
}  // namespace gma::client

int main(int argc, char** argv) {
  gma::client::ChatFlags flags;
  if (const std::optional<int> code = gma::client::ParseChatFlags(argc, argv, flags)) return *code;
  gma::client::Terminal terminal;
  gma::client::HandleSignals([](int signal) { gma::client::signals.On(signal); });
  return gma::client::Run(flags, terminal);
}
