// Perplexity of a text under a decoder and a format of weights: what quantising costs. The tokens
// are cut into --rows streams of equal length, which run side by side from an empty state each, one
// token a step; the same streams whatever the format.
//   perplexity MODEL_DIRECTORY TEXT_FILE [--decoder=cpu|reference] [--weights=f32|bf16|int8|int4]
//              [--threads=N] [--rows=N] [--tokens=N] [--every=N]
// --every prints the perplexity of each N positions of a stream too: how it fares as it grows.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/decoder/parallel.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/bench/decoder_flags.h"
#include "tests/support/perplexity.h"

namespace gma {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

struct Flags {
  std::string model, text;
  DecoderOptions decoder;
  int64_t rows = 32;
  int64_t tokens = 0;  // at most so many of the text's; 0: all
  int64_t every = 0;   // positions; 0: only the whole
};

bool ParseFlags(int argc, char** argv, Flags& flags) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (bench::ReadDecoderFlag(flag, flags.decoder)) continue;
    if (flag.starts_with("--rows=")) {
      flags.rows = std::atoi(argv[i] + 7);
    } else if (flag.starts_with("--tokens=")) {
      flags.tokens = std::atoll(argv[i] + 9);
    } else if (flag.starts_with("--every=")) {
      flags.every = std::atoll(argv[i] + 8);
    } else if (flag.starts_with("--")) {
      return false;
    } else {
      (flags.model.empty() ? flags.model : flags.text) = flag;
    }
  }
  return !flags.text.empty() && flags.rows >= 1 && flags.rows <= 512 && flags.tokens >= 0 &&
         flags.every >= 0;
}

absl::StatusOr<std::vector<int32_t>> TokensOf(const Flags& flags) {
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(flags.model));
  GMA_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.text, kMaxTextBytes));
  std::vector<int32_t> tokens = tokenizer->EncodeText(text);
  if (flags.tokens > 0 && static_cast<int64_t>(tokens.size()) > flags.tokens) {
    tokens.resize(static_cast<size_t>(flags.tokens));
  }
  if (static_cast<int64_t>(tokens.size()) < 2 * flags.rows) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", tokens.size(),
                                                   " tokens; --rows=", flags.rows, " needs ",
                                                   2 * flags.rows, " at least"));
  }
  return tokens;
}

absl::Status Run(const Flags& flags) {
  GMA_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, TokensOf(flags));
  GMA_ASSIGN_OR_RETURN(const ModelDir model, ModelDir::Open(flags.model, {}));
  DecoderOptions options = flags.decoder;
  options.max_batch_rows = static_cast<int32_t>(flags.rows);
  options.max_step_tokens = options.max_batch_rows;
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<CompiledDecoder> decoder,
                       CompiledDecoder::Load(model, options));
  const size_t rows = static_cast<size_t>(flags.rows);
  const auto progress = [](size_t done, size_t of) {
    if (done % 50 == 0) std::fprintf(stderr, "\r%zu of %zu tokens a stream", done, of);
  };
  GMA_ASSIGN_OR_RETURN(const std::vector<double> losses,
                       testing::Losses(*decoder, tokens, rows, progress));
  std::fprintf(stderr, "\r");
  const size_t every = flags.every == 0 ? losses.size() : static_cast<size_t>(flags.every);
  for (size_t first = 0; every < losses.size() && first < losses.size(); first += every) {
    const absl::Span<const double> part = absl::MakeConstSpan(losses).subspan(first, every);
    std::printf("from position %zu: perplexity %.4f, %zu positions\n", first + 1,
                testing::PerplexityOf(part), part.size());
  }
  std::printf("%s %s: perplexity %.4f, %zu streams of %zu tokens\n", options.decoder.c_str(),
              options.weights.c_str(), testing::PerplexityOf(losses), rows, tokens.size() / rows);
  return absl::OkStatus();
}

}  // namespace
}  // namespace gma

int main(int argc, char** argv) {
  gma::LetComputeThreadsSleep(argv);
  gma::Flags flags;
  if (!gma::ParseFlags(argc, argv, flags)) {
    std::fprintf(
        stderr,
        "usage: perplexity MODEL_DIRECTORY TEXT_FILE %s [--rows=1..512] [--tokens=N] [--every=N]\n",
        gma::bench::kDecoderUsage);
    return 2;
  }
  return gma::bench::ExitCode("perplexity", gma::Run(flags));
}
