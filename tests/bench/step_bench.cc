// The decoder alone, without an engine. Loads a model once, then measures what the lines on
// standard input ask for and answers each with one JSON line, so that tools/bench can let this
// program and another take turns. By hand: echo "decode 32 128 128 5" | step_bench MODEL_DIRECTORY
//   step_bench MODEL_DIRECTORY [--max_rows=N] and the flags of decoder_flags.h
// Commands:
//   decode ROWS PROMPT LIMIT SECONDS
//       steps of one token a row; every row has PROMPT tokens, and is set back to them after LIMIT
//   prefill TOKENS SECONDS
//       prompts of TOKENS tokens, each on a fresh row
//   depth DEPTH BASE STEPS
//       a row after DEPTH tokens (fed once, then kept) and one after BASE, step by step in turn
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/decoder/parallel.h"
#include "model/state/state_pool.h"
#include "nlohmann/json.hpp"
#include "tests/bench/decoder_flags.h"

namespace gma {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int32_t kWarmupSteps = 2;

struct Flags {
  std::string model;
  DecoderOptions decoder;
};

bool ParseFlags(int argc, char** argv, Flags& flags) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (bench::ReadDecoderFlag(flag, flags.decoder)) continue;
    if (bench::ReadInt(flag, "--max_rows=", flags.decoder.max_batch_rows)) {
      flags.decoder.max_step_tokens =
          std::max(flags.decoder.max_step_tokens, flags.decoder.max_batch_rows);
      continue;
    }
    if (!flag.starts_with("--") && flags.model.empty()) {
      flags.model = flag;
    } else {
      return false;
    }
  }
  return !flags.model.empty();
}

void Print(const Json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Bytes that one decode step of one row moves when its windows are full: the row is read whole, and
// the masses and means are written; a ring of a window gets one entry.
size_t StateTraffic(const ModelConfig& config, const StateLayout& layout) {
  size_t bytes = layout.row_bytes();
  const size_t components = static_cast<size_t>(config.num_memory_heads) * config.num_components;
  for (const LayerLayout& layer : layout.layers()) {
    const size_t means = sizeof(float) * layer.memory_dim * (layout.compensated() ? 2 : 1);
    bytes += components * (sizeof(double) + means);
  }
  return bytes;
}

class Bench {
 public:
  Bench(CompiledDecoder& decoder, const DecoderOptions& options, StatePool& pool)
      : decoder_(decoder),
        options_(options),
        pool_(pool),
        logits_(static_cast<size_t>(options.max_batch_rows) * decoder.vocab_size()) {}

  absl::StatusOr<Json> Decode(int32_t rows, int32_t prompt, int32_t limit, double seconds) {
    if (rows < 1 || rows > options_.max_batch_rows || limit < 1) {
      return absl::InvalidArgumentError("rows must be 1 to --max_rows, limit at least 1");
    }
    std::vector<StateRow> leases;
    std::vector<int32_t> tokens(rows);
    std::vector<StepRow> batch;
    for (int32_t row = 0; row < rows; ++row) {
      GMA_ASSIGN_OR_RETURN(StateRow lease, pool_.Acquire());
      batch.push_back({lease.index(), absl::MakeConstSpan(&tokens[row], 1), true});
      leases.push_back(std::move(lease));
    }
    RowBytes& start = prompts_[prompt];
    if (start.empty()) {
      GMA_RETURN_IF_ERROR(Feed(leases[0], prompt));
      start = leases[0].view().Copy();
    }
    std::vector<double> times;
    double total = 0;
    std::clock_t processor = 0;  // of all threads: tells a slow decoder from a busy machine
    for (int32_t step = 0; step < kWarmupSteps + 3 || total < seconds; ++step) {
      if (step % limit == 0) {
        for (const StateRow& lease : leases) lease.Write(start);
      }
      for (int32_t& token : tokens) token = RandomToken();
      const std::clock_t processor_start = std::clock();
      GMA_ASSIGN_OR_RETURN(const double time, Step(batch));
      if (step < kWarmupSteps) continue;
      times.push_back(time);
      total += time;
      processor += std::clock() - processor_start;
    }
    Json report = Report(times, rows);
    report["cpu_seconds_per_step"] =
        static_cast<double>(processor) / CLOCKS_PER_SEC / static_cast<double>(times.size());
    return report;
  }

  absl::StatusOr<Json> Prefill(int32_t tokens, double seconds) {
    std::vector<double> times;
    double total = 0;
    for (int32_t round = 0; round < 2 || total < seconds; ++round) {
      GMA_ASSIGN_OR_RETURN(StateRow row, pool_.Acquire());
      const Clock::time_point start = Clock::now();
      GMA_RETURN_IF_ERROR(Feed(row, tokens));
      const double time = SecondsSince(start);
      if (round == 0 && seconds > 0) continue;  // to warm up
      times.push_back(time);
      total += time;
    }
    return Report(times, tokens);
  }

  absl::StatusOr<Json> Depth(int32_t depth, int32_t base, int32_t steps) {
    double feed_seconds = 0;
    if (depths_.find(depth) == depths_.end()) {
      GMA_ASSIGN_OR_RETURN(StateRow row, pool_.Acquire());
      const Clock::time_point start = Clock::now();
      GMA_RETURN_IF_ERROR(Feed(row, depth));
      feed_seconds = SecondsSince(start);
      depths_.emplace(depth, std::move(row));
    }
    GMA_ASSIGN_OR_RETURN(const StateRow other, pool_.Acquire());
    GMA_RETURN_IF_ERROR(Feed(other, base));
    std::vector<double> deep_times, base_times;
    for (int32_t step = 0; step < kWarmupSteps + steps; ++step) {
      const int32_t token = RandomToken();
      GMA_ASSIGN_OR_RETURN(const double deep, Step({{depths_[depth].index(), {&token, 1}, true}}));
      GMA_ASSIGN_OR_RETURN(const double shallow, Step({{other.index(), {&token, 1}, true}}));
      if (step < kWarmupSteps) continue;
      deep_times.push_back(deep);
      base_times.push_back(shallow);
    }
    Json report = Report(deep_times, 1);
    report["seconds_over_base"] = Median(deep_times) / Median(base_times);
    report["feed_seconds"] = feed_seconds;
    return report;
  }

 private:
  int32_t RandomToken() { return static_cast<int32_t>(random_() % decoder_.vocab_size()); }

  // Seconds of one step.
  absl::StatusOr<double> Step(const std::vector<StepRow>& batch) {
    const Clock::time_point start = Clock::now();
    GMA_RETURN_IF_ERROR(decoder_.Step({batch}, pool_, absl::MakeSpan(logits_)));
    return SecondsSince(start);
  }

  // Feeds `count` random tokens, in steps as long as the decoder allows; the last asks for logits.
  absl::Status Feed(const StateRow& row, int32_t count) {
    Clock::time_point told = Clock::now();
    std::vector<int32_t> tokens;
    for (int32_t done = 0; done < count;) {
      tokens.resize(std::min(count - done, options_.max_step_tokens));
      for (int32_t& token : tokens) token = RandomToken();
      done += static_cast<int32_t>(tokens.size());
      GMA_RETURN_IF_ERROR(Step({{row.index(), tokens, done == count}}).status());
      if (SecondsSince(told) < 0.5) continue;
      told = Clock::now();
      Print({{"progress", done}, {"of", count}});
    }
    return absl::OkStatus();
  }

  static Json Report(const std::vector<double>& times, int32_t tokens) {
    const double median = Median(times);
    return {
        {"tokens_per_second", tokens / median}, {"step_seconds", median}, {"steps", times.size()}};
  }

  CompiledDecoder& decoder_;
  const DecoderOptions& options_;
  StatePool& pool_;
  std::vector<float> logits_;
  std::mt19937 random_{1};
  std::map<int32_t, RowBytes> prompts_;  // by length: a row that has read one
  std::map<int32_t, StateRow> depths_;   // by tokens it was fed
};

absl::StatusOr<Json> Answer(Bench& bench, const std::string& line) {
  std::istringstream words(line);
  std::string command;
  words >> command;
  if (command == "decode") {
    int32_t rows = 0, prompt = 0, limit = 0;
    double seconds = 0;
    if (words >> rows >> prompt >> limit >> seconds) {
      return bench.Decode(rows, prompt, limit, seconds);
    }
  } else if (command == "prefill") {
    int32_t tokens = 0;
    double seconds = 0;
    if (words >> tokens >> seconds) return bench.Prefill(tokens, seconds);
  } else if (command == "depth") {
    int32_t depth = 0, base = 0, steps = 0;
    if (words >> depth >> base >> steps && steps > 0) return bench.Depth(depth, base, steps);
  }
  return absl::InvalidArgumentError("no command: " + line);
}

absl::Status Run(const Flags& flags) {
  GMA_ASSIGN_OR_RETURN(const ModelDir model, ModelDir::Open(flags.model, {}));
  const Clock::time_point start = Clock::now();
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<CompiledDecoder> decoder,
                       CompiledDecoder::Load(model, flags.decoder));
  const double load_seconds = SecondsSince(start);
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<StatePool> pool,
                       StatePool::Create(decoder->state_layout(), flags.decoder.max_batch_rows + 8,
                                         decoder->row_memory()));
  const ModelConfig& config = model.config();
  const int64_t embedding = int64_t{config.vocab_size} * config.hidden_size;
  const int64_t layers = model.parameter_count() - embedding * (config.tie_word_embeddings ? 1 : 2);
  Print({{"fingerprint", model.fingerprint()},
         {"device", flags.decoder.device},
         {"decoder", flags.decoder.decoder},
         {"weights", flags.decoder.weights},
         {"threads", flags.decoder.threads},
         {"load_seconds", load_seconds},
         {"layer_parameters", layers},
         {"head_parameters", embedding},
         {"weight_bytes", decoder->weight_bytes()},
         {"row_bytes", pool->row_bytes()},
         {"state_traffic_bytes", StateTraffic(config, decoder->state_layout())}});
  Bench bench(*decoder, flags.decoder, *pool);
  for (std::string line; std::getline(std::cin, line);) {
    const absl::StatusOr<Json> answer = Answer(bench, line);
    Print(answer.ok() ? *answer : Json{{"error", std::string(answer.status().message())}});
  }
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
        "usage: step_bench MODEL_DIRECTORY [--max_rows=N] %s, then commands on standard input\n",
        gma::bench::kDecoderUsage);
    return 2;
  }
  return gma::bench::ExitCode("step_bench", gma::Run(flags));
}
