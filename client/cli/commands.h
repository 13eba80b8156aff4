// The lines that begin with a slash.
#ifndef GMA_CLIENT_CLI_COMMANDS_H_
#define GMA_CLIENT_CLI_COMMANDS_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "client/cli/chat.h"

namespace gma::client {

// Whether `line` is a command. Two slashes begin a message that begins with one.
bool IsCommand(std::string_view line);
// The message that `line`, which is no command, stands for.
std::string_view MessageOf(std::string_view line);

enum class Next { kGoOn, kQuit };

// Runs one command.
// ERRORS: kInvalidArgument for an unknown command or value; the server's.
absl::StatusOr<Next> RunCommand(Chat& chat, std::string_view line);

}  // namespace gma::client

#endif  // GMA_CLIENT_CLI_COMMANDS_H_
