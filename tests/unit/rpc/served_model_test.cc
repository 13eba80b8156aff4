#include "server/rpc/served_model.h"

#include <string>

#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(GenerationDefaultsTest, ReadsWhatItKnowsAndIgnoresTheRest) {
  GMA_ASSERT_OK_AND_ASSIGN(
      const GenerationDefaults defaults,
      ParseGenerationDefaults(R"({"do_sample": true, "temperature": 0.8, "top_k": 40, "top_p": 0.9,
          "min_p": 0.05, "typical_p": 0.7, "repetition_penalty": 1.1, "eos_token_id": [2, 0],
          "transformers_version": "4.0", "bos_token_id": 1})",
                              3));
  EXPECT_EQ(defaults.temperature, 0.8);
  EXPECT_EQ(defaults.top_k, 40);
  EXPECT_EQ(defaults.top_p, 0.9);
  EXPECT_EQ(defaults.min_p, 0.05);
  EXPECT_EQ(defaults.typical_p, 0.7);
  EXPECT_EQ(defaults.repetition_penalty, 1.1);
  EXPECT_THAT(defaults.end_tokens, ElementsAre(2, 0));
}

TEST(GenerationDefaultsTest, GreedyModelsSaySo) {
  EXPECT_EQ(ParseGenerationDefaults(R"({"do_sample": false, "temperature": 0.8})", 3)->temperature,
            0);
  EXPECT_EQ(ParseGenerationDefaults("{}", 3)->temperature, 1);
}

TEST(GenerationDefaultsTest, RefusesWhatIsOutOfRange) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"temperature": -1})", "sampling.temperature is -1, must be in [0, 100]"},
      {R"({"temperature": "hot"})", R"(key "temperature" is "hot", must be a number in [0, 100])"},
      {R"({"top_p": 0})", "sampling.top_p is 0, must be in"},
      {R"({"top_k": 1e300})", "sampling.top_k is"},
      {R"({"eos_token_id": 3})", R"(key "eos_token_id" holds 3, must hold token ids in [0, 3))"},
      {R"({"eos_token_id": [-1]})", "holds -1"},
      {R"({"eos_token_id": "end"})", R"(holds "end")"},
      {R"([])", "JSON object"},
      {R"({)", "JSON"},
      {R"({"top_p": 0.5, "top_p": 0.6})", "duplicate key"}};
  for (const auto& [text, part] : cases) {
    EXPECT_THAT(ParseGenerationDefaults(text, 3),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(part)))
        << text;
  }
}

}  // namespace
}  // namespace gma
