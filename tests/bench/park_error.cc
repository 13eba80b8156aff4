// What parking rows in bfloat16 costs: windows of a text are fed twice side by side, once from rows
// that are rounded every so many tokens, as --park_format bf16 does when a session is parked, and
// once from rows that are left alone.
//   park_error MODEL_DIRECTORY TEXT_FILE [--windows=N] [--tokens=N] [--every=N]
//              [--decoder=cpu|reference] [--weights=f32|bf16|int8|int4] [--threads=N]
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/decoder/parallel.h"
#include "model/state/row_codec.h"
#include "model/state/state_pool.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/bench/decoder_flags.h"

namespace gma {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 28;

struct Flags {
  std::string model, text;
  DecoderOptions decoder;
  int32_t windows = 8, tokens = 1024, every = 64;
};

bool ParseFlags(int argc, char** argv, Flags& flags) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (bench::ReadInt(flag, "--windows=", flags.windows) ||
        bench::ReadInt(flag, "--tokens=", flags.tokens) ||
        bench::ReadInt(flag, "--every=", flags.every) ||
        bench::ReadDecoderFlag(flag, flags.decoder)) {
      continue;
    }
    if (flag.starts_with("--")) return false;
    (flags.model.empty() ? flags.model : flags.text) = flag;
  }
  return !flags.text.empty() && flags.windows >= 1 && flags.windows <= 128 && flags.tokens >= 2 &&
         flags.every >= 1;
}

// log p of every token, [vocab].
std::vector<double> LogProbabilities(absl::Span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  std::vector<double> result(logits.begin(), logits.end());
  for (double& value : result) value -= top + std::log(sum);
  return result;
}

// Sums over all predictions.
struct Totals {
  int64_t predictions = 0, same_top = 0;
  double loss = 0, parked_loss = 0;  // -log p of what came
  double divergence = 0;             // Kullback-Leibler, in nats
  double worst = 0;                  // |difference| of a log p of what came

  void Add(absl::Span<const float> logits, absl::Span<const float> parked_logits, int32_t came) {
    const std::vector<double> exact = LogProbabilities(logits);
    const std::vector<double> parked = LogProbabilities(parked_logits);
    for (size_t i = 0; i < exact.size(); ++i) {
      divergence += std::exp(exact[i]) * (exact[i] - parked[i]);
    }
    ++predictions;
    same_top += std::max_element(exact.begin(), exact.end()) - exact.begin() ==
                std::max_element(parked.begin(), parked.end()) - parked.begin();
    const size_t token = static_cast<size_t>(came);
    loss -= exact[token];
    parked_loss -= parked[token];
    worst = std::max(worst, std::abs(exact[token] - parked[token]));
  }
};

void Round(const StateLayout& layout, StateRow& row) {
  const RowBytes parked = EncodeRow(layout, row.bytes(), RowEncoding::kBfloat16);
  DecodeRow(layout, parked, RowEncoding::kBfloat16, row.bytes());
}

absl::StatusOr<Totals> Measure(const Flags& flags, CompiledDecoder& decoder,
                               const std::vector<int32_t>& text) {
  const int32_t windows = flags.windows, rows = 2 * windows;
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<StatePool> pool,
                       StatePool::Create(decoder.state_layout(), rows));
  std::vector<StateRow> leases;  // [2 windows]: left alone, then those that are parked
  for (int32_t row = 0; row < rows; ++row) {
    GMA_ASSIGN_OR_RETURN(StateRow lease, pool->Acquire());
    leases.push_back(std::move(lease));
  }
  const size_t vocab = static_cast<size_t>(decoder.vocab_size());
  std::vector<float> logits(static_cast<size_t>(rows) * vocab);
  std::vector<StepRow> batch(static_cast<size_t>(rows));
  Totals totals;
  for (int32_t t = 0; t + 1 < flags.tokens; ++t) {
    const auto token = [&](int32_t row, int32_t at) {
      return &text[static_cast<size_t>(row % windows) * flags.tokens + at];
    };
    for (int32_t row = 0; row < rows; ++row) {
      if (row >= windows && t > 0 && t % flags.every == 0) {
        Round(decoder.state_layout(), leases[row]);
      }
      batch[row] = {leases[row].index(), absl::MakeConstSpan(token(row, t), 1), true};
    }
    GMA_RETURN_IF_ERROR(decoder.Step({batch}, *pool, absl::MakeSpan(logits)));
    const absl::Span<const float> all = logits;
    for (int32_t row = 0; row < windows; ++row) {
      totals.Add(all.subspan(row * vocab, vocab), all.subspan((row + windows) * vocab, vocab),
                 *token(row, t + 1));
    }
  }
  return totals;
}

absl::Status Run(const Flags& flags) {
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(flags.model));
  GMA_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.text, kMaxTextBytes));
  const std::vector<int32_t> tokens = tokenizer->EncodeText(text);
  if (const int64_t wanted = int64_t{flags.windows} * flags.tokens;
      static_cast<int64_t>(tokens.size()) < wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", tokens.size(), " tokens, wanted are ", wanted));
  }
  GMA_ASSIGN_OR_RETURN(const ModelDir model, ModelDir::Open(flags.model, {}));
  DecoderOptions options = flags.decoder;
  options.max_batch_rows = options.max_step_tokens = 2 * flags.windows;
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<CompiledDecoder> decoder,
                       CompiledDecoder::Load(model, options));
  GMA_ASSIGN_OR_RETURN(const Totals totals, Measure(flags, *decoder, tokens));
  const auto count = static_cast<double>(totals.predictions);
  const nlohmann::ordered_json report = {
      {"weights", options.weights},
      {"every", flags.every},
      {"predictions", totals.predictions},
      {"perplexity", std::exp(totals.loss / count)},
      {"perplexity_parked", std::exp(totals.parked_loss / count)},
      {"divergence_nats", totals.divergence / count},
      {"same_most_probable", static_cast<double>(totals.same_top) / count},
      {"worst_log_p", totals.worst}};
  std::printf("%s\n", report.dump().c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace gma

int main(int argc, char** argv) {
  gma::LetComputeThreadsSleep(argv);
  gma::Flags flags;
  if (!gma::ParseFlags(argc, argv, flags)) {
    std::fprintf(stderr,
                 "usage: park_error MODEL_DIRECTORY TEXT_FILE %s [--windows=1..128] [--tokens=N] "
                 "[--every=N]\n",
                 gma::bench::kDecoderUsage);
    return 2;
  }
  return gma::bench::ExitCode("park_error", gma::Run(flags));
}
