// Flags of gma-chat.
#ifndef GMA_CLIENT_CLI_FLAGS_H_
#define GMA_CLIENT_CLI_FLAGS_H_

#include <optional>
#include <string>

#include "client/cli/settings.h"
#include "client/lib/command_line.h"

namespace gma::client {

struct ChatFlags {
  ConnectionFlags connection;
  Settings settings;
  std::optional<std::string> prompt;  // one shot
  std::string system;
  std::string session;  // go on with this one
  bool keep = false;    // the session outlives the program
  bool raw = false;     // text as it is, without the chat format
};

// Nothing when the program is to go on, else its exit code (see ParseCommandLine).
std::optional<int> ParseChatFlags(int argc, char** argv, ChatFlags& flags);

}  // namespace gma::client

#endif  // GMA_CLIENT_CLI_FLAGS_H_
