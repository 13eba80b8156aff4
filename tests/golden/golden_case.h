// One golden case: a model directory with the expected values of make_golden.py beside it.
#ifndef GMA_TESTS_GOLDEN_GOLDEN_CASE_H_
#define GMA_TESTS_GOLDEN_GOLDEN_CASE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/checkpoint/model_dir.h"
#include "model/checkpoint/safetensors.h"
#include "model/decoder/compiled_decoder.h"
#include "model/state/state_pool.h"

namespace gma::testing {

// Names of all cases: the folders of tests/golden.
std::vector<std::string> GoldenCaseNames();

struct GoldenCase {
  ModelDir model;
  SafetensorsFile expected;
  std::vector<int32_t> tokens;     // [512]
  std::vector<int64_t> positions;  // tokens after which logits are known, rising

  static absl::StatusOr<GoldenCase> Open(const std::string& name);

  // The largest error of `logits` (after token positions[index]), relative to the largest logit.
  double LogitError(size_t index, absl::Span<const float> logits) const;
  // The largest error of each block of `row` after all tokens, relative to the block's largest
  // number, in the order of the layout; `worst_block` is set to its name.
  double StateError(absl::Span<const uint8_t> row, const StateLayout& layout,
                    std::string& worst_block) const;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_GOLDEN_GOLDEN_CASE_H_
