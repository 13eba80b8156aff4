// The default model writes the text that gma_torch writes. Needs the model on the machine:
// GMA_DEFAULT_MODEL, or build/models/default under the source tree.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/mapped_file.h"
#include "gtest/gtest.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/state/state_pool.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;

std::string DefaultModelPath() {
  const char* path = std::getenv("GMA_DEFAULT_MODEL");
  return path != nullptr ? path : std::string(GMA_SOURCE_DIR) + "/build/models/default";
}

class DefaultModelTest : public ::testing::TestWithParam<const char*> {};

TEST_P(DefaultModelTest, GreedyTextIsThatOfGmaTorch) {
  const std::string path = DefaultModelPath();
  if (!std::filesystem::exists(path + "/model.safetensors")) {
    GTEST_SKIP() << "no default model in " << path << " (GMA_DEFAULT_MODEL names another place)";
  }
  GMA_ASSERT_OK_AND_ASSIGN(
      const std::string text,
      ReadFile(std::string(GMA_SOURCE_DIR) + "/tests/golden/default_greedy.json", 1 << 20));
  GMA_ASSERT_OK_AND_ASSIGN(const nlohmann::ordered_json golden,
                           ParseJson(text, {.max_bytes = 1 << 20}));
  const auto prompt = golden["prompt_tokens"].get<std::vector<int32_t>>();
  const auto expected = golden["tokens"].get<std::vector<int32_t>>();
  ASSERT_EQ(expected.size(), 200u);

  GMA_ASSERT_OK_AND_ASSIGN(const ModelDir model, ModelDir::Open(path, {}));
  GMA_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<CompiledDecoder> decoder,
                           CompiledDecoder::Load(model, {.decoder = GetParam(), .weights = "f32"}));
  GMA_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<StatePool> pool,
                           StatePool::Create(decoder->state_layout(), 1));
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow row, pool->Acquire());
  std::vector<float> logits(decoder->vocab_size());
  std::vector<int32_t> input = prompt, tokens;
  while (tokens.size() < expected.size()) {
    const StepRow step[] = {{row.index(), input, true}};
    ASSERT_THAT(decoder->Step({step}, *pool, absl::MakeSpan(logits)), IsOk());
    const auto best = std::max_element(logits.begin(), logits.end());
    tokens.push_back(static_cast<int32_t>(best - logits.begin()));
    input = {tokens.back()};
  }
  EXPECT_EQ(tokens, expected)
      << "if the default model has changed, run tests/golden/make_default_greedy.py";
}

INSTANTIATE_TEST_SUITE_P(Decoders, DefaultModelTest, ::testing::Values("reference", "cpu"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace gma
