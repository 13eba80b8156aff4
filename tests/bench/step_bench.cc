// Tokens per second of the decoder alone, without an engine: decode at several batch sizes and
// prefill of 512 tokens.
//   step_bench MODEL_DIRECTORY [--weights=f32|bf16] [--threads=N] [--seconds=S]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/decoder/parallel.h"
#include "model/state/state_pool.h"

namespace gma {
namespace {

struct Flags {
  std::string model;
  DecoderOptions decoder;
  double seconds = 5;  // of measurement for each line
};

bool ParseFlags(int argc, char** argv, Flags& flags) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag.starts_with("--weights=")) {
      flags.decoder.weights = flag.substr(10);
    } else if (flag.starts_with("--threads=")) {
      flags.decoder.threads = std::atoi(argv[i] + 10);
    } else if (flag.starts_with("--seconds=")) {
      flags.seconds = std::atof(argv[i] + 10);
    } else if (!flag.starts_with("--") && flags.model.empty()) {
      flags.model = flag;
    } else {
      return false;
    }
  }
  return !flags.model.empty();
}

// Steps of `rows` rows with `tokens_each` random tokens, repeated for `seconds` after two to warm
// up; every row asks for logits.
absl::Status Measure(const char* name, CompiledDecoder& decoder, StatePool& pool, int32_t rows,
                     int32_t tokens_each, double seconds) {
  std::mt19937 engine(1);
  std::vector<StateRow> leases;
  std::vector<std::vector<int32_t>> tokens(rows, std::vector<int32_t>(tokens_each));
  std::vector<StepRow> batch;
  for (int32_t row = 0; row < rows; ++row) {
    GMA_ASSIGN_OR_RETURN(StateRow lease, pool.Acquire());
    for (int32_t& token : tokens[row]) token = engine() % decoder.vocab_size();
    batch.push_back({lease.index(), tokens[row], true});
    leases.push_back(std::move(lease));
  }
  std::vector<float> logits(static_cast<size_t>(rows) * decoder.vocab_size());
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  double total = 0;
  std::clock_t processor = 0;  // of all threads: tells a slow decoder from a busy machine
  for (int32_t step = 0; step < 5 || total < seconds; ++step) {
    const Clock::time_point start = Clock::now();
    const std::clock_t processor_start = std::clock();
    GMA_RETURN_IF_ERROR(decoder.Step({batch}, pool, absl::MakeSpan(logits)));
    const double time = std::chrono::duration<double>(Clock::now() - start).count();
    if (step < 2) continue;
    times.push_back(time);
    total += time;
    processor += std::clock() - processor_start;
  }
  std::sort(times.begin(), times.end());
  const double tokens_per_step = static_cast<double>(rows) * tokens_each;
  const double median = times[times.size() / 2];
  std::printf("%-12s %4d %8.1f %8.1f %10.2f %10.2f\n", name, rows, tokens_per_step / median,
              tokens_per_step * times.size() / total, 1e3 * median,
              1e3 * processor / CLOCKS_PER_SEC / times.size());
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Run(const Flags& flags) {
  GMA_ASSIGN_OR_RETURN(const ModelDir model, ModelDir::Open(flags.model, {}));
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<CompiledDecoder> decoder,
                       CompiledDecoder::Load(model, flags.decoder));
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<StatePool> pool,
                       StatePool::Create(decoder->state_layout(), 64));
  std::printf("model %.12s, %lld parameters, weights %s, threads %d (0: all)\n",
              model.fingerprint().c_str(), static_cast<long long>(model.parameter_count()),
              flags.decoder.weights.c_str(), flags.decoder.threads);
  std::printf("%-12s %4s %8s %8s %10s %10s\n", "", "rows", "tok/s", "mean", "ms/step", "cpu ms");
  for (const int32_t rows : {1, 8, 32, 64}) {
    GMA_RETURN_IF_ERROR(Measure("decode", *decoder, *pool, rows, 1, flags.seconds));
  }
  return Measure("prefill 512", *decoder, *pool, 1, 512, flags.seconds);
}

}  // namespace
}  // namespace gma

int main(int argc, char** argv) {
  gma::LetComputeThreadsSleep(argv);
  gma::Flags flags;
  if (!gma::ParseFlags(argc, argv, flags)) {
    std::fprintf(stderr,
                 "usage: step_bench MODEL_DIRECTORY [--weights=f32|bf16] [--threads=N] "
                 "[--seconds=S]\n");
    return 2;
  }
  const absl::Status status = gma::Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "step_bench: %s\n", std::string(status.message()).c_str());
  return 1;
}
