// Simulation: the real engine, scheduler and session table on a fake clock and a fake decoder, from
// one seed. Prints the seed first; `--seed` shows a failure again.
//
//   gma_sim [--seed=N] [--events=N] [--stored] [--trace]     GMA_SIM_SEED is the seed when there is
//   no --seed
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <string_view>

#include "absl/strings/numbers.h"
#include "base/log.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_world.h"
#include "tests/sim/store_world.h"

namespace gma::testing {
namespace {

constexpr int64_t kEventsOfOneEngine = 2500;

// The value of a flag `--name=value`; false when `argument` is another one.
template <typename T>
bool ReadFlag(std::string_view argument, std::string_view name, T& value) {
  if (!argument.starts_with(name)) return false;
  const std::string_view text = argument.substr(name.size());
  if (absl::SimpleAtoi(absl::string_view(text.data(), text.size()), &value)) return true;
  std::fprintf(stderr, "gma_sim: %s is not a number\n", std::string(argument).c_str());
  std::exit(2);
}

template <typename World, typename Counts>
void Live(uint64_t seed, int64_t events, Counts& counts) {
  World world(seed, counts);
  for (int64_t i = 0; i < kEventsOfOneEngine && sim_position.event < events; ++i) {
    ++sim_position.event;
    world.Event();
  }
  world.End();
}

int Main(int argc, char** argv) {
  SetLogLevel(static_cast<LogLevel>(static_cast<int>(LogLevel::kError) + 1));
  int worlds = 1;
  int64_t events = 100'000;
  uint64_t seed = std::random_device()();
  if (const char* text = std::getenv("GMA_SIM_SEED")) {
    ReadFlag(std::string("--seed=") + text, "--seed=", seed);
  }
  for (int i = 1; i < argc; ++i) {
    if (ReadFlag(argv[i], "--seed=", seed) || ReadFlag(argv[i], "--events=", events)) continue;
    if (std::string_view(argv[i]) == "--stored") {
      worlds = 2;
      continue;
    }
    if (sim_trace = std::string_view(argv[i]) == "--trace"; sim_trace) continue;
    std::fprintf(stderr, "usage: gma_sim [--seed=N] [--events=N] [--stored] [--trace]\n");
    return 2;
  }
  // The servers' own words are part of what is printed.
  if (sim_trace) SetLogLevel(LogLevel::kInfo);
  std::printf("seed %llu, %lld events\n", static_cast<unsigned long long>(seed),
              static_cast<long long>(events));
  std::fflush(stdout);
  sim_position.seed = seed;
  std::mt19937_64 seeds(seed);
  SimCounts counts;
  StoreWorldCounts store_counts;
  // One server without a store; with --stored in turn with two that share one.
  for (int life = 0; sim_position.event < events; ++life) {
    life % worlds == 1 ? Live<StoreWorld>(seeds(), events, store_counts)
                       : Live<SimWorld>(seeds(), events, counts);
  }
  std::printf("%lld streams, %lld sessions, %lld appends, %lld steps, %lld tokens\n",
              static_cast<long long>(counts.streams), static_cast<long long>(counts.sessions),
              static_cast<long long>(counts.appends), static_cast<long long>(counts.steps),
              static_cast<long long>(counts.tokens));
  std::printf("%lld forks, %lld moves, %lld checkpoints, %lld rewinds, %lld out of reach\n",
              static_cast<long long>(counts.forks), static_cast<long long>(counts.moves),
              static_cast<long long>(counts.checkpoints), static_cast<long long>(counts.rewinds),
              static_cast<long long>(counts.out_of_reach));
  for (const auto& [code, count] : counts.ends) {
    std::printf("  %-20s %lld\n", code.c_str(), static_cast<long long>(count));
  }
  if (worlds > 1) store_counts.Print();
  return 0;
}

}  // namespace
}  // namespace gma::testing

int main(int argc, char** argv) { return gma::testing::Main(argc, argv); }
