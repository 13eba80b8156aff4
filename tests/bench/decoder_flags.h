// What the benches of a decoder have in common on the command line.
#ifndef GMA_TESTS_BENCH_DECODER_FLAGS_H_
#define GMA_TESTS_BENCH_DECODER_FLAGS_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "model/decoder/compiled_decoder.h"

namespace gma::bench {

inline constexpr char kDecoderUsage[] =
    "[--device=cpu|cuda] [--decoder=cpu|reference] [--weights=f32|bf16|int8|int4] [--threads=N] "
    "[--deterministic] [--eager]";

// Takes the value of `--name=value` for an integer flag; false for another flag.
inline bool ReadInt(std::string_view flag, std::string_view name, int32_t& value) {
  if (!flag.starts_with(name)) return false;
  value = std::atoi(std::string(flag.substr(name.size())).c_str());
  return true;
}

// Takes one of kDecoderUsage; false for another flag.
inline bool ReadDecoderFlag(std::string_view flag, DecoderOptions& options) {
  if (flag.starts_with("--device=")) {
    options.device = flag.substr(9);
  } else if (flag == "--deterministic") {
    options.deterministic = true;
  } else if (flag == "--eager") {
    options.eager = true;
  } else if (flag.starts_with("--decoder=")) {
    options.decoder = flag.substr(10);
  } else if (flag.starts_with("--weights=")) {
    options.weights = flag.substr(10);
  } else {
    return ReadInt(flag, "--threads=", options.threads);
  }
  return true;
}

// The exit code of a bench that ended with `status`, which is told when it is an error.
inline int ExitCode(const char* program, const absl::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", program, std::string(status.message()).c_str());
  return 1;
}

}  // namespace gma::bench

#endif  // GMA_TESTS_BENCH_DECODER_FLAGS_H_
