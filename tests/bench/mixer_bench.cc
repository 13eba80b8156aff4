// Microseconds a token and memory head through the SIMD mixer, for each instruction set of this
// CPU: one session again and again (warm), sessions in turn whose states exceed the caches (cold),
// calls of 64 tokens (prefill), and the reference kernel.
//   mixer_bench [--seconds=S] [--only=TEXT] [--target=NAME]
// S of measurement for each number, default 0.2.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/unit/kernels/cpu/mixer_case.h"

namespace gma {
namespace {

using ::gma::testing::CaseMixer;
using ::gma::testing::MixerCase;

// The default model's mixer, and neighbours of it.
std::vector<MixerCase> Cases() {
  MixerCase base = {.heads = 9,
                    .memory_heads = 3,
                    .components = 64,
                    .routing_dim = 32,
                    .head_dim = 64,
                    .window = 64,
                    .adapted = true,
                    .forget_write = true};
  std::vector<MixerCase> cases;
  const auto add = [&cases](const char* name, MixerCase options) {
    options.name = name;
    cases.push_back(options);
  };
  add("window 64", base);
  MixerCase wide = base;
  wide.window = 256;
  add("window 256", wide);
  MixerCase compensated = base;
  compensated.compensated = true;
  add("window 64, compensated", compensated);
  MixerCase no_window = base;
  no_window.window = 0;
  add("no window", no_window);
  MixerCase is_static = base;
  is_static.adapted = false;
  add("window 64, static", is_static);
  MixerCase plain = {
      .heads = 12, .memory_heads = 12, .components = 64, .routing_dim = 16, .head_dim = 64};
  add("plain, 12 heads", plain);
  MixerCase short_rows = base;
  short_rows.head_dim = 48;
  add("window 64, v 48", short_rows);
  MixerCase long_rows = base;
  long_rows.head_dim = 128;
  add("window 64, v 128", long_rows);
  return cases;
}

// Microseconds that `work` takes, the lower decile of batches of `batch` calls over `seconds`: what
// others do on the machine shows above it.
template <typename Work>
double Microseconds(double seconds, int32_t batch, Work&& work) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  const Clock::time_point end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                   std::chrono::duration<double>(seconds));
  while (times.size() < 5 || Clock::now() < end) {
    const Clock::time_point start = Clock::now();
    for (int32_t i = 0; i < batch; ++i) work();
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count() /
                    batch);
  }
  const auto decile = times.begin() + static_cast<int64_t>(times.size() / 10);
  std::nth_element(times.begin(), decile, times.end());
  return *decile;
}

struct Flags {
  double seconds = 0.2;
  std::string_view only, target;
};

constexpr size_t kColdBytes = size_t{96} << 20;  // of layers: no cache holds them

// One layer: its kernel, and its part of a state row with blocks aligned as in
// model/state/state_layout.h.
struct Row {
  Row(const MixerCase& options, const MixerConstants& constants) : kernel(constants) {
    const size_t G = options.memory_heads, K = options.components, v = options.head_dim;
    const size_t means = G * K * (options.adapted ? 2 * v : v), near = options.window * G;
    const auto rounded = [](size_t count) { return (count * sizeof(float) + 63) / 64 * 64; };
    const size_t sizes[] = {
        rounded(2 * G * K), rounded(means),    options.compensated ? rounded(means) : 0,
        rounded(near * v),  rounded(near * v), rounded(near * options.routing_dim),
        rounded(near)};
    for (const size_t size : sizes) bytes += size;
    memory = hwy::AllocateAligned<uint8_t>(bytes);
    std::fill(memory.get(), memory.get() + bytes, uint8_t{0});
    uint8_t* at = memory.get();
    const auto take = [&](size_t block) {
      return reinterpret_cast<float*>(std::exchange(at, at + sizes[block]));
    };
    state.mass = reinterpret_cast<double*>(take(0));
    state.memory = take(1);
    float* rest = take(2);
    state.compensation = options.compensated ? rest : nullptr;
    state.window_key = take(3);
    state.window_value = take(4);
    state.window_route = take(5);
    state.window_log_decay = take(6);
  }

  cpu::Mixer kernel;
  hwy::AlignedFreeUniquePtr<uint8_t[]> memory;
  size_t bytes = 0;
  MixerState state{};
};

void Measure(const MixerCase& options, const Flags& flags) {
  constexpr size_t kPrefill = 64;
  CaseMixer layer(options, 1);
  std::vector<testing::TestToken> tokens;
  for (size_t t = 0; t < kPrefill; ++t) tokens.push_back(layer.mixer.Token());
  const int32_t heads = options.memory_heads;
  CaseMixer::PackedTokens packed = layer.Pack(tokens, 0, kPrefill);
  std::vector<float> out(kPrefill * static_cast<size_t>(layer.out_width()));
  packed.tokens.out = out.data();
  packed.tokens.out_stride = layer.out_width();
  packed.tokens.position = 100'000;  // the window is full
  std::vector<Row> layers;
  do {
    layers.emplace_back(options, layer.mixer.constants);
  } while (layers.size() * layers[0].bytes < kColdBytes);
  auto scratch = hwy::AllocateAligned<uint8_t>(layers[0].kernel.scratch_bytes());
  const auto run = [&](const Row& row, int64_t count) {
    packed.tokens.count = count;
    for (int32_t g = 0; g < heads; ++g) row.kernel.Run(packed.tokens, row.state, g, scratch.get());
    packed.tokens.position += count;
  };
  for (const int64_t target : testing::Targets()) {
    if (!flags.target.empty() && flags.target != hwy::TargetName(target)) continue;
    const testing::ScopedTarget scoped(target);
    const double warm = Microseconds(flags.seconds, 8, [&] { run(layers[0], 1); }) / heads;
    size_t next = 0;
    const double cold =
        Microseconds(flags.seconds, 8, [&] { run(layers[next++ % layers.size()], 1); }) / heads;
    const double prefill =
        Microseconds(flags.seconds, 1, [&] { run(layers[0], kPrefill); }) / heads / kPrefill;
    std::printf("%-24s %-9s warm %6.2f   cold %6.2f   prefill %6.2f us\n", options.name.c_str(),
                hwy::TargetName(target), warm, cold, prefill);
  }
  layer.mixer.position = 100'000;
  const double reference =
      Microseconds(flags.seconds, 8, [&] { layer.mixer.Step(tokens[0]); }) / heads;
  std::printf("%-24s reference warm %6.2f us\n", options.name.c_str(), reference);
}

}  // namespace
}  // namespace gma

int main(int argc, char** argv) {
  gma::Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag.starts_with("--seconds=")) {
      flags.seconds = std::atof(argv[i] + 10);
    } else if (flag.starts_with("--only=")) {
      flags.only = flag.substr(7);
    } else if (flag.starts_with("--target=")) {
      flags.target = flag.substr(9);
    } else {
      std::fprintf(stderr, "usage: mixer_bench [--seconds=S] [--only=TEXT] [--target=NAME]\n");
      return 2;
    }
  }
  for (const gma::testing::MixerCase& options : gma::Cases()) {
    if (options.name.find(flags.only) != std::string::npos) gma::Measure(options, flags);
  }
}
