// What our command-line programs have in common: flags of the connection, one clear line for a bad
// flag, and Ctrl-C as an ordinary call.
#ifndef GMA_CLIENT_LIB_COMMAND_LINE_H_
#define GMA_CLIENT_LIB_COMMAND_LINE_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "client/lib/client.h"

namespace CLI {
class App;
}

namespace gma::client {

// Exit codes of the programs. A program that a signal ended exits with 128 + its number.
inline constexpr int kExitOk = 0, kExitFailure = 1, kExitUsage = 2, kExitInterrupted = 130;

struct ConnectionFlags {
  std::string server = "127.0.0.1:50051";
  std::string api_key;  // empty: GMA_API_KEY
  bool tls = false;
  std::string tls_ca_file;
  double connect_timeout = 10;  // seconds
  double resume_for = 60;       // likewise
  std::string model;
};

// Adds --server, --api_key, --tls, --tls_ca_file, --connect_timeout, --model and --version. Of a
// flag of these or added later that comes twice, the last one counts, so that scripts have
// defaults.
void AddConnectionFlags(CLI::App& app, ConnectionFlags& flags);
ClientOptions OptionsOf(const ConnectionFlags& flags);

// Parses; nothing when the program is to go on, else its exit code: after --help and --version
// kExitOk, after a bad flag, which is named in one line on standard error, kExitUsage.
std::optional<int> ParseCommandLine(CLI::App& app, int argc, char** argv);

// Blocks SIGINT, SIGTERM and SIGHUP in this and every later thread and calls `handler` with the
// number of each that comes, on a thread of its own, where everything is allowed.
// REQUIRES: called once, before any other thread is started; `handler` stays valid to the end.
void HandleSignals(std::function<void(int)> handler);

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_COMMAND_LINE_H_
