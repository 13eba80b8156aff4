// The engine with the real decoder and without gRPC: N streams at a time, each asking again when
// its answer is done. One JSON object on standard output, to stand beside gma-loadgen's.
//   engine_bench MODEL_DIRECTORY [--streams=8] [--requests=32] [--prompt_tokens=32]
//                [--max_tokens=64] [--decoder=cpu|reference] [--weights=f32|bf16|int8|int4]
//                [--threads=0]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/decoder/parallel.h"
#include "nlohmann/json.hpp"
#include "server/engine/engine.h"
#include "server/metrics/metrics.h"
#include "tests/bench/decoder_flags.h"

namespace gma {
namespace {

struct Flags {
  std::string model;
  DecoderOptions decoder;
  int32_t streams = 8, requests = 32, prompt_tokens = 32, max_tokens = 64;
};

bool ParseFlags(int argc, char** argv, Flags& flags) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (bench::ReadInt(flag, "--streams=", flags.streams) ||
        bench::ReadInt(flag, "--requests=", flags.requests) ||
        bench::ReadInt(flag, "--prompt_tokens=", flags.prompt_tokens) ||
        bench::ReadInt(flag, "--max_tokens=", flags.max_tokens)) {
      continue;
    }
    if (bench::ReadDecoderFlag(flag, flags.decoder)) continue;
    if (!flag.starts_with("--") && flags.model.empty()) {
      flags.model = flag;
    } else {
      return false;
    }
  }
  return !flags.model.empty() && flags.streams > 0 && flags.requests > 0 &&
         flags.prompt_tokens > 0 && flags.max_tokens > 0;
}

// Streams that have something to read, filled by the engine's thread.
class ReadyQueue {
 public:
  void Push(int32_t stream) {
    absl::MutexLock lock(&mutex_);
    ready_.push_back(stream);
  }
  int32_t Pop() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](std::deque<int32_t>* ready) { return !ready->empty(); }, &ready_));
    const int32_t stream = ready_.front();
    ready_.pop_front();
    return stream;
  }

 private:
  absl::Mutex mutex_;
  std::deque<int32_t> ready_ ABSL_GUARDED_BY(mutex_);
};

// Milliseconds at the given shares of the sorted samples.
nlohmann::ordered_json Percentiles(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  nlohmann::ordered_json result;
  for (const auto& [name, share] :
       std::map<std::string, double>{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}}) {
    const size_t rank = static_cast<size_t>(share * static_cast<double>(seconds.size()));
    result[name] = seconds.empty() ? 0 : 1e3 * seconds[std::min(rank, seconds.size() - 1)];
  }
  return result;
}

class Bench {
 public:
  Bench(const Flags& flags, Engine& engine, int32_t vocab_size)
      : flags_(flags), engine_(engine), vocab_size_(vocab_size) {}

  absl::Status Run() {
    const absl::Duration start = clock_.Monotonic();
    for (int32_t i = 0; i < flags_.streams && started_ < flags_.requests; ++i) {
      GMA_RETURN_IF_ERROR(Start());
    }
    while (ended_ < flags_.requests) GMA_RETURN_IF_ERROR(Read(ready_.Pop()));
    seconds_ = absl::ToDoubleSeconds(clock_.Monotonic() - start);
    return absl::OkStatus();
  }

  nlohmann::ordered_json Report() const {
    nlohmann::ordered_json report;
    report["streams"] = flags_.streams;
    report["requests"] = flags_.requests;
    report["prompt_tokens"] = flags_.prompt_tokens;
    report["max_tokens"] = flags_.max_tokens;
    report["decoder"] = flags_.decoder.decoder;
    report["weights"] = flags_.decoder.weights;
    report["threads"] = flags_.decoder.threads;
    report["seconds"] = seconds_;
    report["generated_tokens"] = tokens_;
    report["tokens_per_second"] = static_cast<double>(tokens_) / seconds_;
    report["first_token_ms"] = Percentiles(first_token_);
    report["inter_token_ms"] = Percentiles(gaps_);
    return report;
  }

 private:
  struct Client {
    std::shared_ptr<TokenStream> stream;
    absl::Duration asked_at, last_token_at;
    bool has_token = false;
  };

  absl::Status Start() {
    GenerateSpec spec;
    spec.owner = "bench";
    for (int32_t i = 0; i < flags_.prompt_tokens; ++i) {
      spec.input.tokens.push_back(
          static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab_size_)));
    }
    spec.sampling.temperature = 0;
    spec.stop.max_tokens = flags_.max_tokens;
    spec.stop.ignore_eos = true;
    const int32_t index = started_++;
    Client& client = clients_[index];
    client.asked_at = clock_.Monotonic();
    GMA_ASSIGN_OR_RETURN(client.stream,
                         engine_.Generate(std::move(spec), [this, index] { ready_.Push(index); }));
    return absl::OkStatus();
  }

  absl::Status Read(int32_t index) {
    const auto it = clients_.find(index);
    if (it == clients_.end()) return absl::OkStatus();  // a notice that came after the end
    Client& client = it->second;
    const std::optional<absl::Status> closed = client.stream->TakeAll(events_);
    const absl::Duration now = clock_.Monotonic();
    for (const StreamEvent& event : events_) {
      if (!std::holds_alternative<TokenEvent>(event)) continue;
      const absl::Duration since = client.has_token ? client.last_token_at : client.asked_at;
      (client.has_token ? gaps_ : first_token_).push_back(absl::ToDoubleSeconds(now - since));
      client.has_token = true;
      client.last_token_at = now;
      ++tokens_;
    }
    if (!closed) return absl::OkStatus();
    GMA_RETURN_IF_ERROR(*closed);
    clients_.erase(it);
    ++ended_;
    return started_ < flags_.requests ? Start() : absl::OkStatus();
  }

  const Flags& flags_;
  Engine& engine_;
  const int32_t vocab_size_;
  const RealClock clock_;
  ReadyQueue ready_;
  std::mt19937_64 random_{1};
  std::map<int32_t, Client> clients_;
  std::vector<StreamEvent> events_;
  std::vector<double> first_token_, gaps_;  // seconds
  int32_t started_ = 0, ended_ = 0;
  int64_t tokens_ = 0;
  double seconds_ = 0;
};

absl::Status Run(Flags flags) {
  GMA_ASSIGN_OR_RETURN(const ModelDir model, ModelDir::Open(flags.model, {}));
  EngineOptions options;
  options.max_sessions = std::max(options.max_sessions, flags.streams);
  options.max_sessions_per_owner = options.max_sessions;
  options.max_waiting = std::max(options.max_waiting, flags.streams);
  flags.decoder.max_batch_rows = options.max_batch_rows;
  flags.decoder.max_step_tokens = options.max_step_tokens;
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<CompiledDecoder> decoder,
                       CompiledDecoder::Load(model, flags.decoder));
  const std::unique_ptr<Metrics> metrics = Metrics::Create(
      {"bench", "", model.fingerprint(), flags.decoder.device, flags.decoder.weights});
  const RealClock clock;
  GMA_ASSIGN_OR_RETURN(
      const std::unique_ptr<Engine> engine,
      Engine::Create(
          options, *decoder, [](int32_t) { return std::string_view(); }, clock, *metrics));
  Bench bench(flags, *engine, decoder->vocab_size());
  engine->Start();
  const absl::Status status = bench.Run();
  engine->Shutdown();
  GMA_RETURN_IF_ERROR(status);
  nlohmann::ordered_json report = bench.Report();
  report["model_fingerprint"] = model.fingerprint();
  std::printf("%s\n", report.dump(2).c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace gma

int main(int argc, char** argv) {
  gma::LetComputeThreadsSleep(argv);
  gma::SetLogLevel(gma::LogLevel::kError);
  gma::Flags flags;
  if (!gma::ParseFlags(argc, argv, flags)) {
    std::fprintf(stderr,
                 "usage: engine_bench MODEL_DIRECTORY [--streams=N] [--requests=N] "
                 "[--prompt_tokens=N] [--max_tokens=N] %s\n",
                 gma::bench::kDecoderUsage);
    return 2;
  }
  return gma::bench::ExitCode("engine_bench", gma::Run(flags));
}
