#include "client/lib/command_line.h"

#include <csignal>
#include <cstdio>
#include <thread>
#include <utility>

#include "CLI/CLI.hpp"

namespace gma::client {

void AddConnectionFlags(CLI::App& app, ConnectionFlags& flags) {
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.add_option("--server", flags.server,
                 "Address of the server, host:port; of several replicas, separated by commas")
      ->capture_default_str();
  app.add_option("--model", flags.model, "Name of the model; the server's only one if not given");
  app.add_option("--api_key", flags.api_key,
                 "API key; the environment variable GMA_API_KEY is safer, for other users of this "
                 "machine can see arguments");
  app.add_flag("--tls", flags.tls, "Encrypt the connection");
  app.add_option("--tls_ca_file", flags.tls_ca_file,
                 "PEM file of the authorities to trust; those of the system if not given");
  app.add_option("--connect_timeout", flags.connect_timeout,
                 "Seconds to wait for a server that is not there yet or loads its model")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.set_version_flag("--version", app.get_name() + " " + GMA_VERSION);
}

ClientOptions OptionsOf(const ConnectionFlags& flags) {
  ClientOptions options;
  options.address = flags.server;
  if (!flags.api_key.empty()) options.api_key = flags.api_key;
  options.tls = flags.tls;
  options.resume_for = absl::Seconds(flags.resume_for);
  options.tls_ca_file = flags.tls_ca_file;
  return options;
}

std::optional<int> ParseCommandLine(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::string line = error.what();
    for (char& c : line) {
      if (c == '\n') c = ' ';
    }
    std::fprintf(stderr, "%s: %s (see --help)\n", app.get_name().c_str(), line.c_str());
    return kExitUsage;
  }
}

void HandleSignals(std::function<void(int)> handler) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals, handler = std::move(handler)] {
    for (;;) {
      int signal = 0;
      if (sigwait(&signals, &signal) == 0) handler(signal);
    }
  }).detach();
}

}  // namespace gma::client
