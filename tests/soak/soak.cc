// gma_soak: a session of very many tokens over gRPC, forked, parked, stopped and killed on the way;
// see soak_run.h. tools/soak starts it.
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "client/lib/command_line.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/soak/soak_run.h"

namespace gma::soak {
namespace {

constexpr size_t kMostTextBytes = size_t{1} << 28;
constexpr int64_t kRoundTokens = 250'000;  // all disturbances once in so many tokens

struct Flags {
  SoakOptions soak;
  std::string text, weights;
  int32_t threads = 0;
};

std::optional<int> ParseFlags(int argc, char** argv, Flags& flags) {
  CLI::App app(
      "Drives one session on a gma-server through very many tokens: appends, answers, input while "
      "an answer is drawn. On the way it is forked, parked in memory and on disk, and the server "
      "is "
      "stopped and killed. A second server takes the same turns without any of that, and all that "
      "both answer, and their state rows in the end, must be the same bytes. Bytes must stay flat; "
      "the time of a token at the beginning and at the end is told.",
      "gma_soak");
  SoakOptions& soak = flags.soak;
  app.add_option("--server_program", soak.program, "gma-server")->required();
  app.add_option("--model", soak.model, "Model directory")->required();
  app.add_option("--folder", soak.folder,
                 "For the state; session.gma and state.key, the session in the end, stay there")
      ->required();
  app.add_option("--tokens", soak.tokens, "Of the session")
      ->default_val(int64_t{1'000'000})
      ->check(CLI::Range(int64_t{10'000}, int64_t{1'000'000'000}));
  app.add_option("--append_tokens", soak.turns.append_tokens, "Of an append at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  app.add_option("--answer_tokens", soak.turns.answer_tokens, "Of an answer at most")
      ->capture_default_str()
      ->check(CLI::Range(2, 4096));
  app.add_option("--text", flags.text,
                 "File that is fed, from its begin on; default: random tokens");
  app.add_flag("--apart", soak.apart,
               "The undisturbed session takes all turns when the other is done, not each at once");
  app.add_option("--seed", soak.turns.seed, "Of the turns")->capture_default_str();
  app.add_option("--weights", flags.weights, "As gma-server's");
  app.add_option("--threads", flags.threads, "As gma-server's")->capture_default_str();
  return client::ParseCommandLine(app, argc, argv);
}

absl::Status Prepare(Flags& flags) {
  SoakOptions& soak = flags.soak;
  soak.rounds = static_cast<int32_t>(std::max<int64_t>(1, soak.tokens / kRoundTokens));
  soak.server_flags = {"--threads", absl::StrCat(flags.threads)};
  if (!flags.weights.empty()) {
    soak.server_flags.insert(soak.server_flags.end(), {"--weights", flags.weights});
  }
  if (flags.text.empty()) return absl::OkStatus();
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(soak.model));
  GMA_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.text, kMostTextBytes));
  soak.turns.text = tokenizer->EncodeText(text);
  if (soak.turns.text.empty()) return absl::InvalidArgumentError("--text: the file is empty");
  return absl::OkStatus();
}

int Run(Flags flags) {
  const bool terminal = isatty(STDERR_FILENO) == 1;
  absl::Status status = Prepare(flags);
  if (status.ok()) {
    Soak soak(
        std::move(flags.soak),
        [&](std::string_view line) {
          if (terminal) std::fputs("\r\x1b[K", stderr);
          std::printf("%s\n", std::string(line).c_str());
          std::fflush(stdout);
        },
        [&](std::string_view line) {
          if (terminal) std::fprintf(stderr, "\r\x1b[K%s", std::string(line).c_str());
        });
    status = soak.Run();
  }
  if (terminal) std::fputs("\r\x1b[K", stderr);
  if (status.ok()) return client::kExitOk;
  std::fprintf(stderr, "gma_soak: %s\n", std::string(status.message()).c_str());
  return client::kExitFailure;
}

}  // namespace
}  // namespace gma::soak

int main(int argc, char** argv) {
  gma::soak::Flags flags;
  if (const std::optional<int> code = gma::soak::ParseFlags(argc, argv, flags)) return *code;
  return gma::soak::Run(std::move(flags));
}
