// gma-server: see --help and docs/OPERATIONS.md. Exit codes: 0 after a drain or a text that was
// asked for, 2 when it could not start, 1 when a shutdown hung.
#include <cstdio>
#include <string>
#include <variant>

#include "absl/strings/str_replace.h"
#include "model/decoder/parallel.h"
#include "server/options/server_options.h"
#include "server/serve.h"

namespace {

// One line, whatever the message holds.
int Fail(const absl::Status& status) {
  const std::string line = absl::StrReplaceAll(status.message(), {{"\n", " "}, {"\r", " "}});
  std::fprintf(stderr, "gma-server: %s\n", line.c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  gma::LetComputeThreadsSleep(argv);
  const auto command = gma::ParseServerOptions(argc, argv);
  if (!command.ok()) return Fail(command.status());
  if (const auto* print = std::get_if<gma::PrintAndExit>(&*command)) {
    std::fputs(print->text.c_str(), stdout);
    return 0;
  }
  return Fail(gma::Serve(std::get<gma::ServerOptions>(*command)));
}
