#include "client/loadgen/flags.h"

#include "CLI/CLI.hpp"

namespace gma::client {

std::optional<int> ParseLoadFlags(int argc, char** argv, LoadFlags& flags) {
  CLI::App app(
      "Puts load on a GMA server and measures what its clients see: time to the first token, time "
      "between tokens, time of a whole answer, throughput, errors. With --rate requests arrive "
      "whether or not the server keeps up, and times count from the planned arrival.",
      "gma-loadgen");
  AddConnectionFlags(app, flags.connection);
  app.add_option("--connections", flags.connections, "Connections that the requests share")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  const CLI::Option* streams =
      app.add_option("--streams", flags.streams, "Requests at once, each followed by another")
          ->capture_default_str()
          ->check(CLI::Range(1, 100000));
  app.add_option("--rate", flags.rate, "Requests a second, started whatever the server does")
      ->excludes(const_cast<CLI::Option*>(streams))
      ->check(CLI::Range(0.001, 1e6));
  app.add_option("--arrivals", flags.arrivals, "Times of arrival with --rate")
      ->capture_default_str()
      ->check(CLI::IsMember({"poisson", "constant"}));
  app.add_option("--requests", flags.requests, "Requests to start [without --duration: 100]")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000'000}));
  app.add_option("--duration", flags.duration, "Seconds in which requests are started")
      ->check(CLI::Range(0.001, 1e7));
  app.add_option("--timeout", flags.timeout, "Seconds a request may take")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e7));
  app.add_option("--prompt_tokens", flags.prompt_tokens, "Tokens of a prompt, drawn at random")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1'048'576}));
  app.add_option("--max_tokens", flags.max_tokens, "Tokens of an answer at most")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1'048'576}));
  app.add_flag("--ignore_eos", flags.ignore_eos, "Every answer has max_tokens tokens");
  app.add_option("--temperature", flags.temperature, "0 is greedy")->capture_default_str();
  app.add_option("--seed", flags.seed, "Of prompts, arrivals and choices")->capture_default_str();
  app.add_option("--slow_readers", flags.slow_readers,
                 "Share of the requests that read slowly; their times are not counted")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--slow_read_delay", flags.slow_read_delay,
                 "Seconds that a slow reader waits before each message")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  app.add_option("--cancels", flags.cancels, "Share of the requests that are cancelled half-way")
      ->check(CLI::Range(0.0, 1.0));
  app.add_flag("--json", flags.json, "Print JSON instead of a table");
  const std::optional<int> code = ParseCommandLine(app, argc, argv);
  if (flags.requests == 0 && flags.duration == 0) flags.requests = 100;
  return code;
}

}  // namespace gma::client
