#include "model/config/model_config.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Json = nlohmann::ordered_json;

Json SmallConfig() {
  return {{"model_type", "gma"},      {"vocab_size", 128},      {"hidden_size", 32},
          {"num_hidden_layers", 2},   {"head_dim", 8},          {"num_attention_heads", 4},
          {"num_components", 8},      {"routing_dim", 6},       {"intermediate_size", 48},
          {"architectures", {"Any"}}, {"bos_token_id", nullptr}};
}

// SmallConfig with the values of `patch` put over it.
absl::StatusOr<ModelConfig> ParseWith(const Json& patch) {
  Json config = SmallConfig();
  for (const auto& [key, value] : patch.items()) config[key] = value;
  return ParseModelConfig(config.dump());
}

absl::StatusOr<ModelConfig> ParseWithOptions(const Json& gma) { return ParseWith({{"gma", gma}}); }

TEST(ModelConfig, AbsentKeysTakeTheirDefaults) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelConfig config, ParseWith(Json::object()));
  EXPECT_EQ(config.vocab_size, 128);
  EXPECT_EQ(config.hidden_size, 32);
  EXPECT_EQ(config.num_layers, 2);
  EXPECT_EQ(config.num_attention_heads, 4);
  EXPECT_EQ(config.num_memory_heads, 4) << "plain GMA: one memory head for each query head";
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.num_components, 8);
  EXPECT_EQ(config.routing_dim, 6);
  EXPECT_EQ(config.intermediate_size, 48);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.slot_horizon, 0);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.bos_token_id, -1);
  EXPECT_THAT(config.eos_token_ids, IsEmpty());
  EXPECT_EQ(config.torch_dtype, WeightType::kFloat32);
  EXPECT_THAT(config.layers, ElementsAre(MixerOptions(), MixerOptions()));
}

TEST(ModelConfig, EveryKeyIsRead) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelConfig config, ParseWith({{"num_memory_heads", 2},
                                                          {"rms_norm_eps", 1e-6},
                                                          {"rope_theta", 100000},
                                                          {"slot_horizon", 4096},
                                                          {"tie_word_embeddings", true},
                                                          {"bos_token_id", 0},
                                                          {"eos_token_id", 2},
                                                          {"torch_dtype", "bfloat16"}}));
  EXPECT_EQ(config.num_memory_heads, 2);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 100000.0);
  EXPECT_EQ(config.slot_horizon, 4096);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.bos_token_id, 0);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2));
  EXPECT_EQ(config.torch_dtype, WeightType::kBFloat16);
}

TEST(ModelConfig, EndTokensMayBeAListOrNull) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelConfig list, ParseWith({{"eos_token_id", {3, 1}}}));
  EXPECT_THAT(list.eos_token_ids, ElementsAre(3, 1));
  GMA_ASSERT_OK_AND_ASSIGN(ModelConfig none, ParseWith({{"eos_token_id", nullptr}}));
  EXPECT_THAT(none.eos_token_ids, IsEmpty());
}

TEST(ModelConfig, OneOptionValueHoldsForAllLayers) {
  GMA_ASSERT_OK_AND_ASSIGN(
      ModelConfig config,
      ParseWithOptions({{"window", 64}, {"read", "adapted"}, {"forget", "write"}}));
  MixerOptions converted = {.window = 64, .read = ReadMode::kAdapted, .forget = ForgetMode::kWrite};
  EXPECT_THAT(config.layers, ElementsAre(converted, converted));
}

TEST(ModelConfig, AnOptionListGivesOneValueALayer) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelConfig config,
                           ParseWithOptions({{"short_conv", {4, 0}},
                                             {"forget", {"head", "none"}},
                                             {"route_norm", {true, false}},
                                             {"out_norm", {false, true}},
                                             {"out_gate", {true, true}},
                                             {"var_param", {"softplus", "bounded"}}}));
  MixerOptions first = {.short_conv = 4,
                        .forget = ForgetMode::kHead,
                        .var_param = VarParam::kSoftplus,
                        .route_norm = true,
                        .out_gate = true};
  MixerOptions second = {.out_norm = true, .out_gate = true};
  EXPECT_THAT(config.layers, ElementsAre(first, second));
}

TEST(ModelConfig, ConvolutionRunsOverRoutingAndValues) {
  GMA_ASSERT_OK_AND_ASSIGN(ModelConfig config, ParseWith({{"num_memory_heads", 2}}));
  MixerOptions options = {.short_conv = 4};
  EXPECT_EQ(config.ConvChannels(options), 4 * 6 + 2 * (6 + 8));
  options.read = ReadMode::kAdapted;
  EXPECT_EQ(config.ConvChannels(options), 2 * (6 + 8)) << "the adapted read has no query routing";
}

struct Refusal {
  const char* key;
  Json value;
  const char* limit;  // part of the message beside the key
};

TEST(ModelConfig, RefusesValuesOutOfRangeNamingKeyAndLimit) {
  const Refusal refusals[] = {
      {"model_type", "llama", "\"gma\""},
      {"vocab_size", 0, "[1, 1048576]"},
      {"vocab_size", -1, "[1, 1048576]"},
      {"vocab_size", (1 << 20) + 1, "[1, 1048576]"},
      {"vocab_size", 128.0, "[1, 1048576]"},
      {"vocab_size", "128", "[1, 1048576]"},
      {"vocab_size", nullptr, "[1, 1048576]"},
      {"vocab_size", true, "[1, 1048576]"},
      {"vocab_size", uint64_t{1} << 63, "[1, 1048576]"},
      {"vocab_size", (int64_t{1} << 32) + 1, "[1, 1048576]"},
      {"vocab_size", INT64_MIN, "[1, 1048576]"},
      {"hidden_size", 65537, "[1, 65536]"},
      {"num_hidden_layers", 1025, "[1, 1024]"},
      {"num_attention_heads", 1025, "[1, 1024]"},
      {"num_memory_heads", 0, "[1, 4]"},
      {"num_memory_heads", 8, "[1, 4]"},
      {"num_memory_heads", 3, "divisor"},
      {"head_dim", 7, "even"},
      {"head_dim", 4098, "[1, 4096]"},
      {"num_components", 4097, "[1, 4096]"},
      {"routing_dim", 0, "[1, 4096]"},
      {"intermediate_size", (1 << 18) + 1, "[1, 262144]"},
      {"rms_norm_eps", 0, "(0, 1]"},
      {"rms_norm_eps", -1e-5, "(0, 1]"},
      {"rms_norm_eps", 1.5, "(0, 1]"},
      {"rms_norm_eps", "1e-5", "(0, 1]"},
      {"rope_theta", 0.0, "(0, 1e+15]"},
      {"rope_theta", 1e16, "(0, 1e+15]"},
      {"rope_theta", nullptr, "(0, 1e+15]"},
      {"slot_horizon", 0, "[1, 1073741824]"},
      {"slot_horizon", (1 << 30) + 1, "[1, 1073741824]"},
      {"slot_horizon", 4096.0, "[1, 1073741824]"},
      {"tie_word_embeddings", 1, "true or false"},
      {"bos_token_id", 128, "[0, 127]"},
      {"bos_token_id", -1, "[0, 127]"},
      {"eos_token_id", 128, "[0, 127]"},
      {"eos_token_id", {1, 128}, "[0, 127]"},
      {"eos_token_id", {1, nullptr}, "[0, 127]"},
      {"eos_token_id", std::vector<int>(65, 1), "limit 64"},
      {"torch_dtype", "float16", "\"float32\" \"bfloat16\""},
      {"torch_dtype", 32, "\"float32\" \"bfloat16\""},
      {"gma", nullptr, "an object"},
      {"gma", Json::array(), "an object"},
  };
  for (const Refusal& refusal : refusals) {
    EXPECT_THAT(ParseWith({{refusal.key, refusal.value}}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr(refusal.key), HasSubstr(refusal.limit))))
        << refusal.key << " = " << refusal.value;
  }
}

TEST(ModelConfig, RefusesOptionsOutOfRangeNamingKeyAndLimit) {
  const Refusal refusals[] = {
      {"window", -1, "[0, 65536]"},
      {"window", 65537, "[0, 65536]"},
      {"window", false, "[0, 65536]"},
      {"short_conv", 1, "0 (off) or in [2, 16]"},
      {"short_conv", 17, "[0, 16]"},
      {"short_conv", nullptr, "[0, 16]"},
      {"read", "linear", "\"static\" \"adapted\""},
      {"forget", "slot", "\"none\" \"head\" \"write\""},
      {"forget", false, "\"none\" \"head\" \"write\""},
      {"var_param", "exp", "\"bounded\" \"softplus\""},
      {"route_norm", 1, "true or false"},
      {"out_norm", "true", "true or false"},
      {"out_gate", nullptr, "true or false"},
      {"window", {16}, "must be 2"},
      {"window", {16, 16, 16}, "must be 2"},
      {"window", Json::array(), "must be 2"},
      {"window", {16, {16, 16}}, "[0, 65536]"},
      {"read", {"static", "linear"}, "\"static\" \"adapted\""},
      {"route", "value", "\"projected\" \"key\""},
      {"route", "key", "without read \"adapted\""},
  };
  for (const Refusal& refusal : refusals) {
    EXPECT_THAT(
        ParseWithOptions({{refusal.key, refusal.value}}),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 AllOf(HasSubstr(std::string("gma.") + refusal.key), HasSubstr(refusal.limit))))
        << refusal.key << " = " << refusal.value;
  }
}

TEST(ModelConfig, RoutesFromKeysWantReadAdaptedAlone) {
  const Json adapted = {{"read", "adapted"}, {"route", {"projected", "key"}}};
  GMA_ASSERT_OK_AND_ASSIGN(ModelConfig config, ParseWithOptions(adapted));
  EXPECT_TRUE(config.layers[0].has_route_k());
  EXPECT_FALSE(config.layers[1].has_route_k());
  for (const Json& more : {Json{{"short_conv", 4}}, Json{{"route_norm", true}}}) {
    Json options = adapted;
    options.update(more);
    EXPECT_THAT(ParseWithOptions(options),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("gma.route")));
  }
}

TEST(ModelConfig, UnknownKeysAreAnErrorUnderGmaAndIgnoredElsewhere) {
  EXPECT_THAT(ParseWith({{"slot_prior", 1}}), IsOk());
  EXPECT_THAT(ParseWithOptions({{"slot_prior", 1}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"slot_prior\"")));
  EXPECT_THAT(ParseWithOptions({{"slot_prior", {1, 1}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"slot_prior\"")));
}

TEST(ModelConfig, NamesTheMissingKey) {
  for (const char* key :
       {"model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "head_dim", "num_components", "routing_dim", "intermediate_size"}) {
    Json config = SmallConfig();
    config.erase(key);
    EXPECT_THAT(ParseModelConfig(config.dump()),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(key)));
  }
}

TEST(ModelConfig, RefusesTextThatIsNotOneStrictJsonObject) {
  for (const char* text : {"", "[]", "null", "3", "{", R"({"model_type": "gma"} x)",
                           R"({"model_type": "gma", "model_type": "gma"})", "{\"\xff\": 1}"}) {
    EXPECT_THAT(ParseModelConfig(text), StatusIs(absl::StatusCode::kInvalidArgument, Not("")))
        << text;
  }
  std::string huge = SmallConfig().dump() + std::string(size_t{1} << 20, ' ');
  EXPECT_THAT(ParseModelConfig(huge),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("limit 1048576")));
}

TEST(ModelConfig, MessagesStayShortAndOnOneLine) {
  absl::StatusOr<ModelConfig> config = ParseWith({{"torch_dtype", std::string(5000, '\n')}});
  ASSERT_THAT(config, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("torch_dtype")));
  EXPECT_LT(config.status().message().size(), 200u);
  EXPECT_THAT(std::string(config.status().message()), Not(HasSubstr("\n")));
  absl::StatusOr<ModelConfig> option = ParseWithOptions({{std::string(5000, '\n'), 1}});
  EXPECT_LT(option.status().message().size(), 300u);
  EXPECT_THAT(std::string(option.status().message()), Not(HasSubstr("\n")));
  absl::StatusOr<ModelConfig> list = ParseWithOptions({{"new\nline", {1}}});
  EXPECT_THAT(std::string(list.status().message()), Not(HasSubstr("\n")));
}

TEST(LoadModelConfig, ReadsTheFileAndNamesItInErrors) {
  gma::testing::TempDir dir;
  EXPECT_THAT(LoadModelConfig(dir.path()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
  dir.Write("config.json", SmallConfig().dump());
  EXPECT_THAT(LoadModelConfig(dir.path()), IsOk());
  dir.Write("config.json", "{}");
  EXPECT_THAT(LoadModelConfig(dir.path()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr(dir.path()), HasSubstr("model_type"))));
  std::filesystem::remove(dir.File("config.json"));
  std::filesystem::create_directory(dir.File("config.json"));
  EXPECT_THAT(LoadModelConfig(dir.path()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
}

TEST(LoadModelConfig, ReadsWhatThePythonPackageWrites) {
  int read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(GMA_SOURCE_DIR "/tests/golden")) {
    if (!std::filesystem::exists(entry.path() / "config.json")) continue;
    EXPECT_THAT(LoadModelConfig(entry.path().string()), IsOk());
    ++read;
  }
  EXPECT_GT(read, 10);
}

}  // namespace
}  // namespace gma
