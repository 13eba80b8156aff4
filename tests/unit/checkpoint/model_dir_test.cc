#include "model/checkpoint/model_dir.h"

#include <sys/stat.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/checkpoint/safetensors_header.h"
#include "nlohmann/json.hpp"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::gma::testing::TempDir;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;
using Shape = std::vector<int64_t>;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

Json SmallConfig() {
  return {{"model_type", "gma"},    {"vocab_size", 16},        {"hidden_size", 6},
          {"num_hidden_layers", 2}, {"head_dim", 4},           {"num_attention_heads", 4},
          {"num_components", 5},    {"routing_dim", 3},        {"intermediate_size", 7},
          {"num_memory_heads", 2},  {"torch_dtype", "float32"}};
}

// Every tensor of `config` in one buffer of bytes, so that tests can change each of them.
class Weights {
 public:
  explicit Weights(const ModelConfig& config) {
    type_ =
        config.torch_dtype == WeightType::kFloat32 ? TensorType::kFloat32 : TensorType::kBFloat16;
    for (const auto& [name, shape] : ExpectedTensors(config)) Add(name, shape);
  }
  void Add(const std::string& name, const Shape& shape) {
    std::vector<uint8_t>& data = data_[name];
    data.resize(*TensorBytes(type_, shape), 0x3c);
    tensors_[name] = {type_, shape, data};
  }
  void Remove(const std::string& name) { tensors_.erase(name); }
  TensorView& view(const std::string& name) { return tensors_.at(name); }
  std::vector<uint8_t>& data(const std::string& name) { return data_.at(name); }
  const TensorMap& tensors() const { return tensors_; }

 private:
  TensorType type_;
  TensorMap tensors_;
  std::map<std::string, std::vector<uint8_t>> data_;
};

// A model directory on disk.
class ModelDirTest : public ::testing::Test {
 protected:
  ModelDirTest() { Configure(SmallConfig()); }

  void Configure(const Json& json) {
    dir_.Write("config.json", json.dump());
    weights_.emplace(*ParseModelConfig(json.dump()));
  }
  absl::StatusOr<ModelDir> WriteAndOpen(const ModelDirOptions& options = {}) {
    absl::Status written = WriteSafetensors(dir_.File("model.safetensors"), weights_->tensors());
    if (!written.ok()) return written;
    return ModelDir::Open(dir_.path(), options);
  }
  // Writes the tensors before `split` (by name) to a.safetensors, the others to b.safetensors.
  Json WriteShards(const std::string& split) {
    TensorMap first, second;
    Json index = {{"metadata", Json::object()}, {"weight_map", Json::object()}};
    for (const auto& [name, view] : weights_->tensors()) {
      const bool early = name < split;
      (early ? first : second)[name] = view;
      index["weight_map"][name] = early ? "a.safetensors" : "b.safetensors";
    }
    EXPECT_THAT(WriteSafetensors(dir_.File("a.safetensors"), first), IsOk());
    EXPECT_THAT(WriteSafetensors(dir_.File("b.safetensors"), second), IsOk());
    return index;
  }
  absl::StatusOr<ModelDir> OpenWithIndex(const Json& index) {
    dir_.Write("model.safetensors.index.json", index.dump());
    return ModelDir::Open(dir_.path(), {});
  }

  TempDir dir_;
  std::optional<Weights> weights_;
};

TEST_F(ModelDirTest, OpensAndShowsEveryTensor) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelDir model, WriteAndOpen());
  int64_t parameters = 0;
  for (const auto& [name, shape] : ExpectedTensors(model.config())) {
    const TensorView& view = model.tensor(name);
    EXPECT_EQ(view.shape, shape) << name;
    EXPECT_EQ(view.type, TensorType::kFloat32) << name;
    parameters += static_cast<int64_t>(view.As<float>().size());
  }
  EXPECT_EQ(model.parameter_count(), parameters);
  EXPECT_EQ(model.path(), dir_.path());
  EXPECT_EQ(model.fingerprint().size(), 64u);
}

TEST_F(ModelDirTest, ViewsOutliveAMoveOfTheModel) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelDir model, WriteAndOpen());
  const uint8_t* data = model.tensor("model.norm.weight").data.data();
  ModelDir moved = std::move(model);
  EXPECT_EQ(moved.tensor("model.norm.weight").data.data(), data);
  EXPECT_EQ(data[0], 0x3c);
}

TEST_F(ModelDirTest, AskingForATensorThatCannotExistIsOurMistake) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelDir model, WriteAndOpen());
  EXPECT_DEATH((void)model.tensor("model.norm.bias"), "check failed");
}

TEST_F(ModelDirTest, MissingFilesAreNamed) {
  EXPECT_THAT(ModelDir::Open(dir_.File("none"), {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
  EXPECT_THAT(ModelDir::Open(dir_.path(), {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("model.safetensors")));
}

TEST_F(ModelDirTest, RefusesMissingUnknownAndChangedTensorsByName) {
  const std::string name = "model.layers.1.mixer.v_proj.weight";
  weights_->Remove(name);
  EXPECT_THAT(WriteAndOpen(), StatusIs(kInvalid, HasSubstr("missing tensor " + name)));
  weights_->Add(name, {6, 8});
  EXPECT_THAT(WriteAndOpen(),
              StatusIs(kInvalid, HasSubstr(name + " has shape [6, 8], must be [8, 6]")));
  weights_->Add(name, {8, 6});
  weights_->view(name).type = TensorType::kInt32;
  EXPECT_THAT(WriteAndOpen(), StatusIs(kInvalid, HasSubstr(name + " has type I32, must be F32")));
  weights_->Add(name, {8, 6});
  weights_->Add("model.layers.2.mixer.v_proj.weight", {8, 6});
  EXPECT_THAT(WriteAndOpen(),
              StatusIs(kInvalid, HasSubstr("unknown tensor \"model.layers.2.mixer.v_proj.weight")));
}

TEST_F(ModelDirTest, ATiedModelHasNoHead) {
  Json config = SmallConfig();
  config["tie_word_embeddings"] = true;
  Configure(config);
  EXPECT_THAT(WriteAndOpen(), IsOk());
  weights_->Add("lm_head.weight", {16, 6});
  EXPECT_THAT(WriteAndOpen(), StatusIs(kInvalid, HasSubstr("unknown tensor \"lm_head.weight\"")));
}

TEST_F(ModelDirTest, RefusesNonFiniteFloatsUnlessAllowed) {
  const std::string name = "model.embed_tokens.weight";
  const float bad_values[] = {std::nanf(""), std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              std::bit_cast<float>(0xff800001u)};
  for (float bad : bad_values) {
    for (size_t index : {size_t{0}, size_t{41}, size_t{95}}) {
      weights_->Add(name, {16, 6});
      std::memcpy(weights_->data(name).data() + index * sizeof(bad), &bad, sizeof(bad));
      EXPECT_THAT(WriteAndOpen(), StatusIs(kInvalid, HasSubstr(name + " holds a non-finite")));
      EXPECT_THAT(WriteAndOpen({.allow_nonfinite_weights = true}), IsOk());
      std::memset(weights_->data(name).data(), 0, 96 * sizeof(float));
    }
  }
}

TEST_F(ModelDirTest, FindsANonFiniteValueAnywhereInALargeTensor) {
  Json config = SmallConfig();
  config["vocab_size"] = 4999;
  Configure(config);
  const std::string name = "model.embed_tokens.weight";
  std::vector<uint8_t>& data = weights_->data(name);
  const float bad = std::nanf("");
  for (size_t index = 0; index < data.size() / sizeof(float); index += 997) {
    std::vector<uint8_t> good(data);
    std::memcpy(data.data() + index * sizeof(bad), &bad, sizeof(bad));
    ASSERT_THAT(WriteAndOpen(), StatusIs(kInvalid, HasSubstr("non-finite"))) << index;
    std::copy(good.begin(), good.end(), data.begin());
  }
  EXPECT_THAT(WriteAndOpen(), IsOk());
}

TEST_F(ModelDirTest, RefusesNonFiniteBfloat16) {
  Json config = SmallConfig();
  config["torch_dtype"] = "bfloat16";
  Configure(config);
  EXPECT_THAT(WriteAndOpen(), IsOk());
  for (uint16_t bad : {0x7f80, 0xff80, 0x7fc0, 0xff81}) {
    std::memcpy(weights_->data("model.norm.weight").data() + 4, &bad, sizeof(bad));
    EXPECT_THAT(WriteAndOpen(), StatusIs(kInvalid, HasSubstr("model.norm.weight")));
  }
}

TEST_F(ModelDirTest, ExtremeButFiniteWeightsAreWeights) {
  for (float value : {std::numeric_limits<float>::denorm_min(), 1e38f, -1e38f,
                      std::numeric_limits<float>::max(), -0.0f}) {
    std::memcpy(weights_->data("model.norm.weight").data(), &value, sizeof(value));
    EXPECT_THAT(WriteAndOpen(), IsOk()) << value;
  }
}

TEST_F(ModelDirTest, WeightsOfTheWrongTypeAreRefused) {
  Json config = SmallConfig();
  config["torch_dtype"] = "bfloat16";
  dir_.Write("config.json", config.dump());
  EXPECT_THAT(WriteAndOpen(), StatusIs(kInvalid, HasSubstr("has type F32, must be BF16")));
}

TEST_F(ModelDirTest, OneFileAndShardsHaveOneFingerprint) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelDir whole, WriteAndOpen());
  std::filesystem::remove(dir_.File("model.safetensors"));
  const Json index = WriteShards("model.layers.1.");
  GMA_ASSERT_OK_AND_ASSIGN(ModelDir shards, OpenWithIndex(index));
  EXPECT_EQ(shards.fingerprint(), whole.fingerprint());
  EXPECT_EQ(shards.parameter_count(), whole.parameter_count());
}

TEST_F(ModelDirTest, OneChangedBitChangesTheFingerprint) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelDir before, WriteAndOpen());
  weights_->data("model.norm.weight")[0] ^= 1;
  GMA_ASSERT_OK_AND_ASSIGN(ModelDir after, WriteAndOpen());
  EXPECT_NE(after.fingerprint(), before.fingerprint());
}

TEST_F(ModelDirTest, RefusesAnIndexThatLeadsOutOfTheDirectory) {
  for (const char* file : {"../model.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".",
                           "", ".hidden", "a\\u0000b"}) {
    Json index = WriteShards("model.layers.1.");
    index["weight_map"]["model.norm.weight"] = Json::parse(absl::StrCat("\"", file, "\""));
    EXPECT_THAT(OpenWithIndex(index), StatusIs(kInvalid, AllOf(HasSubstr("\"model.norm.weight\""),
                                                               HasSubstr("in the same directory"))))
        << file;
  }
}

TEST_F(ModelDirTest, RefusesAnIndexThatDisagreesWithItsShards) {
  const Json good = WriteShards("model.layers.1.");
  Json moved = good;
  moved["weight_map"]["model.norm.weight"] = "a.safetensors";
  EXPECT_THAT(OpenWithIndex(moved), StatusIs(kInvalid, HasSubstr("\"model.norm.weight\"")));
  Json dropped = good;
  dropped["weight_map"].erase("model.norm.weight");
  EXPECT_THAT(OpenWithIndex(dropped),
              StatusIs(kInvalid, HasSubstr("\"model.norm.weight\" is not in this shard")));
  Json invented = good;
  invented["weight_map"]["more"] = "b.safetensors";
  EXPECT_THAT(OpenWithIndex(invented), StatusIs(kInvalid, HasSubstr("\"more\" is missing")));
  Json no_file = good;
  no_file["weight_map"]["more"] = "c.safetensors";
  EXPECT_THAT(OpenWithIndex(no_file),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("c.safetensors")));
}

TEST_F(ModelDirTest, RefusesAnIndexThatIsNone) {
  for (const char* text : {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {"a": 1}})",
                           R"({"weight_map": {"a": "f", "a": "f"}})"}) {
    dir_.Write("model.safetensors.index.json", text);
    EXPECT_THAT(ModelDir::Open(dir_.path(), {}), StatusIs(kInvalid, HasSubstr("index.json")))
        << text;
  }
}

TEST_F(ModelDirTest, RefusesWeightsThatAreNotARegularFile) {
  const std::string path = dir_.File("model.safetensors");
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(ModelDir::Open(dir_.path(), {}), StatusIs(kInvalid, HasSubstr("not a regular file")));
  std::filesystem::remove(path);
  std::filesystem::create_directory_symlink(dir_.path(), path);
  EXPECT_THAT(ModelDir::Open(dir_.path(), {}), StatusIs(kInvalid, HasSubstr("not a regular file")));
}

TEST(ExpectedTensors, PlainGmaHasTheTableOfTheModel) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelConfig config, ParseModelConfig(SmallConfig().dump()));
  const auto shapes = ExpectedTensors(config);
  EXPECT_EQ(shapes.size(), 3u + 2 * (2 + 3 + 7));
  EXPECT_EQ(shapes.at("model.embed_tokens.weight"), (Shape{16, 6}));
  EXPECT_EQ(shapes.at("lm_head.weight"), (Shape{16, 6}));
  EXPECT_EQ(shapes.at("model.norm.weight"), (Shape{6}));
  const std::string layer = "model.layers.1.";
  EXPECT_EQ(shapes.at(layer + "input_layernorm.weight"), (Shape{6}));
  EXPECT_EQ(shapes.at(layer + "post_attention_layernorm.weight"), (Shape{6}));
  EXPECT_EQ(shapes.at(layer + "mlp.gate_proj.weight"), (Shape{7, 6}));
  EXPECT_EQ(shapes.at(layer + "mlp.up_proj.weight"), (Shape{7, 6}));
  EXPECT_EQ(shapes.at(layer + "mlp.down_proj.weight"), (Shape{6, 7}));
  EXPECT_EQ(shapes.at(layer + "mixer.route_q_proj.weight"), (Shape{12, 6}));
  EXPECT_EQ(shapes.at(layer + "mixer.route_k_proj.weight"), (Shape{6, 6}));
  EXPECT_EQ(shapes.at(layer + "mixer.v_proj.weight"), (Shape{8, 6}));
  EXPECT_EQ(shapes.at(layer + "mixer.o_proj.weight"), (Shape{6, 16}));
  EXPECT_EQ(shapes.at(layer + "mixer.component_mean"), (Shape{2, 5, 3}));
  EXPECT_EQ(shapes.at(layer + "mixer.component_omega"), (Shape{2, 5, 3}));
  EXPECT_EQ(shapes.at(layer + "mixer.prior_logits"), (Shape{2, 5}));
}

TEST(ExpectedTensors, EachOptionAddsItsTensors) {
  struct Case {
    const char* gma;
    std::map<std::string, Shape> added;  // under model.layers.N.mixer.
    std::vector<std::string> removed;
  };
  const Case cases[] = {
      {R"({"window": 4})",
       {{"q_proj.weight", {16, 6}}, {"k_proj.weight", {8, 6}}, {"slot_bias", {4, 5}}},
       {}},
      {R"({"read": "adapted"})",
       {{"q_proj.weight", {16, 6}},
        {"k_proj.weight", {8, 6}},
        {"slot_bias", {4, 5}},
        {"slot_scale", {4}}},
       {"route_q_proj.weight"}},
      {R"({"read": "adapted", "route": "key"})",
       {{"q_proj.weight", {16, 6}},
        {"k_proj.weight", {8, 6}},
        {"slot_bias", {4, 5}},
        {"slot_scale", {4}},
        {"route", {2, 3, 4}}},
       {"route_q_proj.weight", "route_k_proj.weight"}},
      {R"({"short_conv": 3})", {{"conv_weight", {12 + 2 * 7, 3}}}, {}},
      {R"({"forget": "head"})",
       {{"forget_proj.weight", {2, 6}}, {"forget_bias", {2}}, {"forget_a_log", {2}}},
       {}},
      {R"({"forget": "write"})", {{"forget_beta", {2}}}, {}},
      {R"({"route_norm": true})", {{"route_q_norm.weight", {3}}, {"route_k_norm.weight", {3}}}, {}},
      {R"({"out_norm": true})", {{"out_norm.weight", {4}}}, {}},
      {R"({"out_gate": true})", {{"gate_proj.weight", {16, 6}}}, {}},
      {R"({"var_param": "softplus"})", {}, {}},
      {R"({"read": "adapted", "route_norm": true, "short_conv": 2})",
       {{"q_proj.weight", {16, 6}},
        {"k_proj.weight", {8, 6}},
        {"slot_bias", {4, 5}},
        {"slot_scale", {4}},
        {"route_k_norm.weight", {3}},
        {"conv_weight", {2 * 7, 2}}},
       {"route_q_proj.weight"}},
  };
  Json json = SmallConfig();
  const auto plain = ExpectedTensors(*ParseModelConfig(json.dump()));
  for (const Case& option : cases) {
    json["gma"] = Json::parse(option.gma);
    auto expected = plain;
    for (int layer = 0; layer < 2; ++layer) {
      const std::string prefix = absl::StrCat("model.layers.", layer, ".mixer.");
      for (const auto& [name, shape] : option.added) expected[prefix + name] = shape;
      for (const std::string& name : option.removed) expected.erase(prefix + name);
    }
    EXPECT_EQ(ExpectedTensors(*ParseModelConfig(json.dump())), expected) << option.gma;
  }
}

TEST(ModelDir, OpensEveryGoldenModelOfThePythonPackage) {
  int opened = 0;
  for (const auto& entry : std::filesystem::directory_iterator(GMA_SOURCE_DIR "/tests/golden")) {
    if (!std::filesystem::exists(entry.path() / "model.safetensors")) continue;
    EXPECT_THAT(ModelDir::Open(entry.path().string(), {}), IsOk());
    ++opened;
  }
  EXPECT_GT(opened, 10);
}

}  // namespace
}  // namespace gma
