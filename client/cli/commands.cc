#include "client/cli/commands.h"

#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace gma::client {
namespace {

constexpr char kHelp[] =
    "  /help              this list\n"
    "  /stats             tokens, speed and memory of this conversation\n"
    "  /set               all settings of the sampling; /set temperature 0.7 changes one\n"
    "  /system TEXT       start anew with this text about how the model is to behave\n"
    "  /new               start anew, with an empty past\n"
    "  /undo              back to before the last message\n"
    "  /retry             the last message again, answered with another seed\n"
    "  /save NAME         keep this point of the conversation; without a name, under a number\n"
    "  /load NAME         back to a point that was kept\n"
    "  /fork              go on in a copy; the conversation so far stays as it is\n"
    "  /goto ID           go on in another session, by the beginning of its id\n"
    "  /export FILE       write the conversation to a file, sealed by the server\n"
    "  /import FILE       go on in a conversation read from such a file\n"
    "  /pin               keep the conversation at hand on the server; /pin off lets it go\n"
    "  /session           the session on the server\n"
    "  /model             the model\n"
    "  /quit              end; so does Ctrl-D\n"
    "Ctrl-C stops an answer. A backslash at the end of a line goes on in the next one.\n"
    "An empty line lets the model go on. Two slashes begin a message that begins with one.\n";

using Arguments = std::string_view;

std::string_view Trimmed(std::string_view text) {
  const absl::string_view stripped =
      absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size()));
  return {stripped.data(), stripped.size()};
}

// The first word of `text`, and the rest.
std::pair<std::string_view, std::string_view> FirstWord(std::string_view text) {
  const size_t end = text.find_first_of(" \t\n");
  if (end == std::string_view::npos) return {text, {}};
  return {text.substr(0, end), Trimmed(text.substr(end))};
}

absl::Status Help(Chat& chat, Arguments) {
  chat.terminal().Show(kHelp);
  return absl::OkStatus();
}

absl::Status Stats(Chat& chat, Arguments) {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo session, chat.SessionInfo());
  const ChatStats& stats = chat.stats();
  std::string text;
  if (stats.answers > 0) {
    const double seconds = absl::ToDoubleSeconds(stats.last_total - stats.last_first_token);
    absl::StrAppendFormat(&text, "  last answer    %s tokens in %.2f s", Grouped(stats.last_tokens),
                          absl::ToDoubleSeconds(stats.last_total));
    // The first token is the prompt's work; the others show the speed of decoding.
    if (stats.last_tokens > 1 && seconds > 0) {
      absl::StrAppendFormat(&text, ", %.1f tokens/s",
                            static_cast<double>(stats.last_tokens - 1) / seconds);
    }
    absl::StrAppendFormat(&text, "\n  first token    after %.0f ms, for %s tokens of input\n",
                          absl::ToDoubleMilliseconds(stats.last_first_token),
                          Grouped(stats.last_prompt));
  }
  absl::StrAppendFormat(&text, "  conversation   %d answers, %s tokens\n", stats.answers,
                        Grouped(stats.tokens));
  absl::StrAppendFormat(&text, "  context        %s tokens\n", Grouped(session.context_tokens()));
  absl::StrAppendFormat(&text, "  state          %s bytes, the same at any length\n",
                        Grouped(session.state_bytes()));
  chat.terminal().Show(text);
  return absl::OkStatus();
}

absl::Status Set(Chat& chat, Arguments arguments) {
  Settings& settings = chat.flags().settings;
  if (arguments.empty()) {
    chat.terminal().Show(settings.Describe());
    return absl::OkStatus();
  }
  const auto [name, value] = FirstWord(arguments);
  GMA_RETURN_IF_ERROR(settings.Set(name, value));
  chat.terminal().Note(absl::StrCat(std::string(name), " is ", std::string(value)));
  return absl::OkStatus();
}

absl::Status New(Chat& chat, Arguments) {
  GMA_RETURN_IF_ERROR(chat.StartAnew());
  chat.terminal().Note("(a fresh session)");
  return absl::OkStatus();
}

absl::Status Undo(Chat& chat, Arguments) {
  GMA_ASSIGN_OR_RETURN(const std::string text, chat.Undo());
  chat.terminal().Note(absl::StrCat("(as before: ", text.empty() ? "going on" : text, ")"));
  return absl::OkStatus();
}

absl::Status Retry(Chat& chat, Arguments) { return chat.Retry(); }

absl::Status Save(Chat& chat, Arguments name) {
  GMA_ASSIGN_OR_RETURN(const v1::CheckpointInfo kept, chat.Save(name));
  chat.terminal().Note(absl::StrCat("(kept as ", kept.name(), ", ", Grouped(kept.context_tokens()),
                                    " tokens; /load ", kept.name(), " goes back)"));
  return absl::OkStatus();
}

absl::Status Load(Chat& chat, Arguments name) {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo session, chat.Load(name));
  chat.terminal().Note(absl::StrCat("(back at ", Grouped(session.context_tokens()), " tokens)"));
  return absl::OkStatus();
}

absl::Status Fork(Chat& chat, Arguments) {
  GMA_ASSIGN_OR_RETURN(const std::string from, chat.Fork());
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo session, chat.SessionInfo());
  chat.terminal().Note(
      absl::StrCat("(this is a copy now, ", session.session_id(), "; /goto ", from, " goes back)"));
  return absl::OkStatus();
}

absl::Status GoTo(Chat& chat, Arguments id) {
  GMA_RETURN_IF_ERROR(chat.GoTo(id));
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo session, chat.SessionInfo());
  chat.terminal().Note(absl::StrCat("(session ", session.session_id(), ", ",
                                    Grouped(session.context_tokens()), " tokens)"));
  return absl::OkStatus();
}

absl::Status Export(Chat& chat, Arguments path) {
  if (path.empty()) return absl::InvalidArgumentError("the name of the file is missing");
  GMA_ASSIGN_OR_RETURN(const int64_t bytes, chat.Export(std::string(path)));
  chat.terminal().Note(absl::StrCat("(", Grouped(bytes), " bytes; /import ", std::string(path),
                                    " goes on from there)"));
  return absl::OkStatus();
}

absl::Status Import(Chat& chat, Arguments path) {
  if (path.empty()) return absl::InvalidArgumentError("the name of the file is missing");
  GMA_RETURN_IF_ERROR(chat.Import(std::string(path)));
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo session, chat.SessionInfo());
  chat.terminal().Note(absl::StrCat("(session ", session.session_id(), ", ",
                                    Grouped(session.context_tokens()), " tokens)"));
  return absl::OkStatus();
}

absl::Status Pin(Chat& chat, Arguments arguments) {
  if (!arguments.empty() && arguments != "off") {
    return absl::InvalidArgumentError("/pin has no argument, or \"off\"");
  }
  GMA_RETURN_IF_ERROR(chat.Pin(arguments.empty()));
  chat.terminal().Note(arguments.empty() ? "(stays at hand; /pin off lets it go)"
                                         : "(may be parked again)");
  return absl::OkStatus();
}

absl::Status System(Chat& chat, Arguments arguments) {
  chat.flags().system = std::string(arguments);
  return New(chat, arguments);
}

const char* TierName(v1::SessionTier tier) {
  switch (tier) {
    case v1::SESSION_TIER_MEMORY:
      return "parked in memory";
    case v1::SESSION_TIER_DISK:
      return "parked on disk";
    default:
      return "at hand";
  }
}

absl::Status ShowSession(Chat& chat, Arguments) {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo session, chat.SessionInfo());
  chat.terminal().Show(absl::StrFormat(
      "  session        %s\n  context        %s tokens\n  state          %s bytes, %s%s\n"
      "  open for       %s\n  expires after  %s without use\n",
      session.session_id(), Grouped(session.context_tokens()), Grouped(session.state_bytes()),
      TierName(session.tier()), session.pinned() ? ", pinned" : "",
      absl::FormatDuration(absl::Seconds(session.age_seconds())),
      absl::FormatDuration(absl::Seconds(session.ttl_seconds()))));
  return absl::OkStatus();
}

absl::Status ShowModel(Chat& chat, Arguments) {
  const v1::ModelInfo& model = chat.model();
  chat.terminal().Show(absl::StrFormat(
      "  model          %s\n  parameters     %s in %d layers, %d heads, %d memory heads of %d "
      "slots\n  vocabulary     %s tokens\n  a session      %s bytes at any length; %d fit\n"
      "  runs on        %s, weights in %s\n  fingerprint    %s\n  server         %s\n",
      model.name(), Grouped(model.parameter_count()), model.num_layers(),
      model.num_attention_heads(), model.num_memory_heads(), model.num_components(),
      Grouped(model.vocab_size()), Grouped(model.state_bytes()), model.session_capacity(),
      model.device(), model.weights(), model.fingerprint(), model.server_version()));
  return absl::OkStatus();
}

struct Command {
  std::string_view name;
  absl::Status (*run)(Chat&, Arguments);
};

constexpr Command kCommands[] = {
    {"help", Help},       {"stats", Stats}, {"set", Set},
    {"system", System},   {"new", New},     {"undo", Undo},
    {"retry", Retry},     {"save", Save},   {"load", Load},
    {"fork", Fork},       {"goto", GoTo},   {"export", Export},
    {"import", Import},   {"pin", Pin},     {"session", ShowSession},
    {"model", ShowModel},
};

}  // namespace

bool IsCommand(std::string_view line) {
  return line.size() >= 1 && line[0] == '/' && (line.size() < 2 || line[1] != '/');
}

std::string_view MessageOf(std::string_view line) {
  return line.substr(0, 2) == "//" ? line.substr(1) : line;
}

absl::StatusOr<Next> RunCommand(Chat& chat, std::string_view line) {
  const auto [name, arguments] = FirstWord(line.substr(1));
  if (name == "quit" || name == "exit") return Next::kQuit;
  for (const Command& command : kCommands) {
    if (command.name != name) continue;
    GMA_RETURN_IF_ERROR(command.run(chat, arguments));
    return Next::kGoOn;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no command /", std::string(name), "; /help lists them"));
}

}  // namespace gma::client
