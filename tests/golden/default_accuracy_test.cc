// What coarser weights cost the default model, on a story (Edgar Allan Poe, 1843; public domain).
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "gtest/gtest.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/perplexity.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

constexpr size_t kRows = 8, kTokens = 384;  // streams, and tokens of each

TEST(DefaultModelAccuracy, PerplexityOfEachFormatIsThatOfFloat32) {
  const char* set = std::getenv("GMA_DEFAULT_MODEL");
  const std::string path =
      set != nullptr ? set : std::string(GMA_SOURCE_DIR) + "/build/models/default";
  if (!std::filesystem::exists(path + "/model.safetensors")) {
    GTEST_SKIP() << "no default model in " << path << " (GMA_DEFAULT_MODEL names another place)";
  }
  GMA_ASSERT_OK_AND_ASSIGN(const ModelDir model, ModelDir::Open(path, {}));
  GMA_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(path));
  GMA_ASSERT_OK_AND_ASSIGN(
      const std::string text,
      ReadFile(std::string(GMA_SOURCE_DIR) + "/tests/golden/black_cat.txt", 1 << 20));
  std::vector<int32_t> tokens = tokenizer->EncodeText(text);
  ASSERT_GE(tokens.size(), kRows * kTokens);
  tokens.resize(kRows * kTokens);
  std::map<std::string, double> perplexity;
  for (const char* weights : {"f32", "bf16", "int8", "int4"}) {
    GMA_ASSERT_OK_AND_ASSIGN(
        const std::unique_ptr<CompiledDecoder> decoder,
        CompiledDecoder::Load(model, {.weights = weights, .max_batch_rows = kRows}));
    GMA_ASSERT_OK_AND_ASSIGN(const std::vector<double> losses,
                             testing::Losses(*decoder, tokens, kRows));
    perplexity[weights] = testing::PerplexityOf(losses);
    RecordProperty(std::string("perplexity_") + weights, std::to_string(perplexity[weights]));
  }
  const auto change = [&](const char* weights) {
    return std::fabs(perplexity[weights] / perplexity["f32"] - 1);
  };
  EXPECT_LT(change("bf16"), 0.001);
  EXPECT_LT(change("int8"), 0.005);
  EXPECT_LT(change("int4"), 0.03);
}

}  // namespace
}  // namespace gma
