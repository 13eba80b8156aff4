#include "model/checkpoint/fingerprint.h"

#include <set>
#include <string>
#include <vector>

#include "model/checkpoint/safetensors_header.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::FloatView;

constexpr char kConfig[] = R"({"model_type": "gma", "vocab_size": 128, "hidden_size": 32,
  "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8, "num_components": 8,
  "routing_dim": 6, "intermediate_size": 48)";

ModelConfig Parse(const std::string& rest) {
  absl::StatusOr<ModelConfig> config = ParseModelConfig(kConfig + rest + "}");
  EXPECT_TRUE(config.ok()) << config.status();
  return *std::move(config);
}

TEST(CanonicalConfig, SpellingDoesNotMatter) {
  const std::string plain = CanonicalConfig(Parse(""));
  EXPECT_EQ(CanonicalConfig(Parse(R"(, "gma": {}, "architectures": ["x"], "bos_token_id": null)")),
            plain);
  EXPECT_EQ(CanonicalConfig(Parse(R"(, "gma": {"window": [0, 0], "read": "static"})")), plain);
  EXPECT_EQ(CanonicalConfig(Parse(R"(, "rope_theta": 1e4, "num_memory_heads": 4)")), plain);
}

TEST(CanonicalConfig, EveryMeaningMatters) {
  std::set<std::string> texts;
  const std::vector<std::string> variants = {
      "",
      R"(, "num_memory_heads": 2)",
      R"(, "rms_norm_eps": 1e-6)",
      R"(, "rope_theta": 10000.000000001)",
      R"(, "slot_horizon": 1)",
      R"(, "slot_horizon": 2)",
      R"(, "tie_word_embeddings": true)",
      R"(, "bos_token_id": 0)",
      R"(, "eos_token_id": 0)",
      R"(, "eos_token_id": [0, 1])",
      R"(, "torch_dtype": "bfloat16")",
      R"(, "gma": {"window": 4})",
      R"(, "gma": {"window": [4, 0]})",
      R"(, "gma": {"window": [0, 4]})",
      R"(, "gma": {"short_conv": 4})",
      R"(, "gma": {"read": "adapted"})",
      R"(, "gma": {"read": "adapted", "route": "key"})",
      R"(, "gma": {"forget": "head"})",
      R"(, "gma": {"forget": "write"})",
      R"(, "gma": {"var_param": "softplus"})",
      R"(, "gma": {"route_norm": true})",
      R"(, "gma": {"out_norm": true})",
      R"(, "gma": {"out_gate": true})",
  };
  for (const std::string& variant : variants) {
    EXPECT_TRUE(texts.insert(CanonicalConfig(Parse(variant))).second) << variant;
  }
}

TEST(ModelFingerprint, IsSixtyFourHexDigitsAndTheSameEachTime) {
  const std::vector<float> values = {1, 2, 3, 4};
  const TensorMap tensors = {{"t", FloatView(values, {4})}};
  const std::string fingerprint = ModelFingerprint(Parse(""), tensors);
  EXPECT_EQ(fingerprint.size(), 64u);
  EXPECT_EQ(fingerprint.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(ModelFingerprint(Parse(""), tensors), fingerprint);
}

TEST(ModelFingerprint, ChangesWithNameTypeShapeBytesAndConfig) {
  const std::vector<float> values = {1, 2, 3, 4};
  std::vector<float> flipped = values;
  flipped[3] = -4;
  TensorView as_integers = FloatView(values, {4});
  as_integers.type = TensorType::kInt32;
  std::set<std::string> seen;
  const std::vector<TensorMap> models = {
      {{"t", FloatView(values, {4})}},
      {{"u", FloatView(values, {4})}},
      {{"t", FloatView(values, {2, 2})}},
      {{"t", FloatView(values, {4, 1})}},
      {{"t", FloatView(flipped, {4})}},
      {{"t", as_integers}},
      {{"t", FloatView(values, {4})}, {"u", FloatView({}, {0})}},
      {},
  };
  for (const TensorMap& model : models) {
    EXPECT_TRUE(seen.insert(ModelFingerprint(Parse(""), model)).second);
  }
  EXPECT_TRUE(
      seen.insert(ModelFingerprint(Parse(R"(, "rms_norm_eps": 1e-6)"), models.front())).second);
}

}  // namespace
}  // namespace gma
