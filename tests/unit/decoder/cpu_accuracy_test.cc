// The cpu decoder beside the reference, for every format of weights.
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/state/state_pool.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;

// Logits after `tokens`, from an empty state.
std::vector<float> Logits(const ModelDir& model, const DecoderOptions& options,
                          const std::vector<int32_t>& tokens) {
  absl::StatusOr<std::unique_ptr<CompiledDecoder>> decoder = CompiledDecoder::Load(model, options);
  EXPECT_THAT(decoder, IsOk());
  absl::StatusOr<std::unique_ptr<StatePool>> pool =
      StatePool::Create((*decoder)->state_layout(), 1);
  EXPECT_THAT(pool, IsOk());
  absl::StatusOr<StateRow> row = (*pool)->Acquire();
  EXPECT_THAT(row, IsOk());
  std::vector<float> logits((*decoder)->vocab_size());
  const StepRow step[] = {{row->index(), tokens, true}};
  EXPECT_THAT((*decoder)->Step({step}, **pool, absl::MakeSpan(logits)), IsOk());
  return logits;
}

// Coarser weights cost accuracy, by about as much as their steps say, and never all of it.
TEST(CpuDecoderAccuracy, LogitsAreThoseOfTheReferenceWithinTheFormat) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 40; ++i) tokens.push_back((i * 37 + 11) % 128);
  for (const char* name : {"everything", "converted", "from_scratch", "plain"}) {
    GMA_ASSERT_OK_AND_ASSIGN(
        const ModelDir model,
        ModelDir::Open(std::string(GMA_SOURCE_DIR) + "/tests/golden/" + name, {}));
    const std::vector<float> expected =
        Logits(model, {.decoder = "reference", .weights = "f32", .threads = 1}, tokens);
    for (const auto& [weights, bound] :
         {std::pair{"f32", 1e-4}, {"bf16", 0.03}, {"int8", 0.1}, {"int4", 0.4}}) {
      const std::vector<float> ours = Logits(model, {.weights = weights, .threads = 2}, tokens);
      double difference = 0, size = 0;
      for (size_t i = 0; i < ours.size(); ++i) {
        difference += std::pow(ours[i] - expected[i], 2);
        size += std::pow(expected[i], 2);
      }
      EXPECT_LT(std::sqrt(difference / size), bound) << name << " " << weights;
      EXPECT_GT(difference, 0) << name << " " << weights << ": the decoders are one and the same";
    }
  }
}

}  // namespace
}  // namespace gma
