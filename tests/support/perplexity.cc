#include "tests/support/perplexity.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "model/state/state_pool.h"

namespace gma::testing {
namespace {

// -log p of `token` under the logits.
double Loss(absl::Span<const float> logits, int32_t token) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - top));
  return std::log(sum) + top - logits[static_cast<size_t>(token)];
}

}  // namespace

absl::StatusOr<std::vector<double>> Losses(CompiledDecoder& decoder,
                                           absl::Span<const int32_t> tokens, size_t rows,
                                           const std::function<void(size_t, size_t)>& progress) {
  const size_t length = tokens.size() / rows, vocab = static_cast<size_t>(decoder.vocab_size());
  GMA_CHECK(length >= 2);
  GMA_ASSIGN_OR_RETURN(
      const std::unique_ptr<StatePool> pool,
      StatePool::Create(decoder.state_layout(), static_cast<int32_t>(rows), decoder.row_memory()));
  std::vector<StateRow> leases;
  for (size_t row = 0; row < rows; ++row) {
    GMA_ASSIGN_OR_RETURN(StateRow lease, pool->Acquire());
    leases.push_back(std::move(lease));
  }
  std::vector<float> logits(rows * vocab);
  std::vector<StepRow> batch(rows);
  std::vector<double> losses;
  for (size_t t = 0; t + 1 < length; ++t) {
    for (size_t row = 0; row < rows; ++row) {
      batch[row] = {leases[row].index(), tokens.subspan(row * length + t, 1), true};
    }
    GMA_RETURN_IF_ERROR(decoder.Step({batch}, *pool, absl::MakeSpan(logits)));
    double loss = 0;
    for (size_t row = 0; row < rows; ++row) {
      loss += Loss(absl::MakeConstSpan(logits).subspan(row * vocab, vocab),
                   tokens[row * length + t + 1]);
    }
    losses.push_back(loss / static_cast<double>(rows));
    if (progress) progress(t + 1, length - 1);
  }
  return losses;
}

double PerplexityOf(absl::Span<const double> losses) {
  return std::exp(std::accumulate(losses.begin(), losses.end(), 0.0) /
                  static_cast<double>(losses.size()));
}

}  // namespace gma::testing
