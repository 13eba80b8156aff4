// A decoder whose state is a hash chain over the tokens fed, and whose logits are a function of
// that hash: a token that is wrong, lost or fed twice changes every token after it, so a test that
// compares an answer with the chain of its prompt sees it at once.
#ifndef GMA_TESTS_SUPPORT_FAKE_DECODER_H_
#define GMA_TESTS_SUPPORT_FAKE_DECODER_H_

#include <cstdint>
#include <functional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/decoder/compiled_decoder.h"
#include "model/state/state_layout.h"
#include "model/state/state_pool.h"

namespace gma::testing {

inline constexpr int32_t kFakeVocab = 61;
inline constexpr int32_t kFakeEndToken = 0;

// What a state row holds after some tokens: the value of the chain and their number. The initial
// state is all zero, like a fresh row.
struct FakeState {
  int64_t position = 0;
  uint64_t hash = 0;

  // Feeds tokens in order.
  void Feed(int32_t token);
  void Feed(absl::Span<const int32_t> tokens) {
    for (int32_t token : tokens) Feed(token);
  }
  // Writes the logits [kFakeVocab] that follow: NextToken() is the largest by far, the rest vary.
  void Logits(absl::Span<float> logits) const;
  int32_t NextToken() const;
};

// The text of a token: a letter or two; nothing for the end token.
std::string_view FakeTokenText(int32_t token);

// Its rows are not in host memory, as far as anybody can tell: who takes their bytes instead of
// copying them ends the test.
// THREADS: one at a time.
class FakeDecoder final : public CompiledDecoder {
 public:
  // Every step is checked against these limits and against the contract of CompiledDecoder.
  FakeDecoder(int32_t max_batch_rows, int32_t max_step_tokens);

  absl::Status Step(const StepBatch& batch, StatePool& pool, absl::Span<float> logits) override;
  const StateLayout& state_layout() const override { return layout_; }
  RowMemory& row_memory() override;
  size_t weight_bytes() const override { return 0; }  // it has none
  int32_t vocab_size() const override { return kFakeVocab; }

  // Called before each step, to let a test move a clock or look at the batch.
  void set_on_step(std::function<void(const StepBatch&)> on_step) { on_step_ = std::move(on_step); }
  // The next step scrambles its rows and fails.
  void FailNextStep() { fail_next_ = true; }
  // The next logits of this state row hold a NaN.
  void NanForRow(int32_t state_row) { nan_rows_.insert(state_row); }

  // The state in a row.
  static FakeState StateOf(const StatePool& pool, int32_t state_row);

  // State rows of the last step.
  const std::vector<int32_t>& last_rows() const { return last_rows_; }
  int64_t steps() const { return steps_; }
  int64_t tokens_fed() const { return tokens_fed_; }

 private:
  const int32_t max_batch_rows_, max_step_tokens_;
  const StateLayout layout_;
  std::function<void(const StepBatch&)> on_step_;
  bool fail_next_ = false;
  std::set<int32_t> nan_rows_;
  std::vector<int32_t> last_rows_;
  int64_t steps_ = 0, tokens_fed_ = 0;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_FAKE_DECODER_H_
