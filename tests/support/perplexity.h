// Perplexity of a decoder on a text, in streams that run side by side.
#ifndef GMA_TESTS_SUPPORT_PERPLEXITY_H_
#define GMA_TESTS_SUPPORT_PERPLEXITY_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/decoder/compiled_decoder.h"

namespace gma::testing {

// Cuts `tokens` into `rows` streams of equal length (a rest is left out) and feeds them side by
// side, one token a step, each from an empty state. For each position but the first, -log p of its
// token, the mean over the streams. `progress` is told the steps done and their number.
// REQUIRES: two tokens a stream; the decoder takes `rows` rows.
absl::StatusOr<std::vector<double>> Losses(
    CompiledDecoder& decoder, absl::Span<const int32_t> tokens, size_t rows,
    const std::function<void(size_t, size_t)>& progress = {});

// exp of the mean of `losses`, at least one.
double PerplexityOf(absl::Span<const double> losses);

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_PERPLEXITY_H_
