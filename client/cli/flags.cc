#include "client/cli/flags.h"

#include "CLI/CLI.hpp"

namespace gma::client {

std::optional<int> ParseChatFlags(int argc, char** argv, ChatFlags& flags) {
  CLI::App app(
      "Chats with a GMA language model. On a terminal it edits lines and keeps a history "
      "(~/.gma_chat_history); in a pipe it answers each line of its input.",
      "gma-chat");
  AddConnectionFlags(app, flags.connection);
  app.add_option("--prompt", flags.prompt, "Answer this and exit");
  app.add_option("--system", flags.system, "Text that tells the model how to behave");
  app.add_option("--session", flags.session, "Go on with an open session (32 hex digits)");
  app.add_flag("--keep", flags.keep, "Leave the session open at the end; its id is printed");
  app.add_option(
         "--resume_for", flags.connection.resume_for,
         "Seconds to go on trying when the connection breaks off in an answer; 0: not at all")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_flag("--raw", flags.raw, "Continue the text as it is, without the chat format");
  for (const SettingInfo& setting : Settings::All()) {
    std::string help = setting.help;
    const std::string name = setting.name;
    if (name == "temperature") help += " [0.2]";
    if (name == "top_p") help += " [0.9]";
    if (name == "repetition_penalty") help += " [1.05]";
    if (name == "max_tokens") help += " [1024]";
    app.add_option_function<std::string>(
           "--" + name,
           [&flags, name](const std::string& value) {
             const absl::Status status = flags.settings.Set(name, value);
             if (!status.ok()) throw CLI::ValidationError("--" + std::string(status.message()));
           },
           help)
        ->type_name("NUMBER")
        ->group("Sampling");
  }
  return ParseCommandLine(app, argc, argv);
}

}  // namespace gma::client
