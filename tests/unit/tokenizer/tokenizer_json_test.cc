#include "model/tokenizer/tokenizer_json.h"

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/tokenizer/small_tokenizer.h"

namespace gma {
namespace {

using Json = nlohmann::ordered_json;
using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::HasSubstr;

// One change to a good file, and what the refusal must say.
struct Fault {
  std::string name;
  std::function<void(Json&)> change;
  std::string message;
};

class TokenizerJsonFaultTest : public ::testing::TestWithParam<Fault> {};

TEST_P(TokenizerJsonFaultTest, IsRefusedByName) {
  Json json = SmallTokenizerJson({{"h", "i"}});
  ASSERT_THAT(ParseTokenizerJson(json.dump()), IsOk());
  GetParam().change(json);
  EXPECT_THAT(ParseTokenizerJson(json.dump()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(GetParam().message)));
}

Json& Digits(Json& json) { return json["pre_tokenizer"]["pretokenizers"][0]; }
Json& ByteLevel(Json& json) { return json["pre_tokenizer"]["pretokenizers"][1]; }
Json Special(const Json& id, const char* content) {
  return {{"id", id}, {"content", content}, {"special", true}};
}

const Fault kSettingFaults[] = {
    {"Array", [](Json& j) { j = Json::array(); }, "the file is '[]', must be an object"},
    {"Version", [](Json& j) { j["version"] = "2.0"; },
     "file.version '2.0' is not supported, only '1.0'"},
    {"UnknownKey", [](Json& j) { j["extra"] = 1; },
     "key 'extra' of the file is not supported, only version, truncation"},
    {"Normalizer",
     [](Json& j) {
       j["normalizer"] = {{"type", "NFC"}};
     },
     "file.normalizer"},
    {"Truncation",
     [](Json& j) {
       j["truncation"] = {{"max_length", 8}};
     },
     "file.truncation"},
    {"Padding",
     [](Json& j) {
       j["padding"] = {{"pad_id", 0}};
     },
     "file.padding"},
    {"PostProcessor",
     [](Json& j) {
       j["post_processor"] = {{"type", "BertProcessing"}};
     },
     "post_processor.type 'BertProcessing' is not supported"},
    {"NoDecoder", [](Json& j) { j.erase("decoder"); }, "decoder is missing, must be a ByteLevel"},
    {"Decoder", [](Json& j) { j["decoder"]["type"] = "WordPiece"; }, "decoder.type 'WordPiece'"},
    {"NoPreTokenizer", [](Json& j) { j["pre_tokenizer"] = nullptr; },
     "pre_tokenizer is missing, must be"},
    {"PreTokenizer",
     [](Json& j) {
       j["pre_tokenizer"] = {{"type", "Whitespace"}};
     },
     "pre_tokenizer.type 'Whitespace'"},
    {"EmptySequence", [](Json& j) { j["pre_tokenizer"]["pretokenizers"] = Json::array(); },
     "pre_tokenizer.pretokenizers is '[]', must be [Digits, ByteLevel]"},
    {"WrongOrder", [](Json& j) { std::swap(Digits(j), ByteLevel(j)); },
     "pretokenizers[0].type 'ByteLevel'"},
    {"DigitGroups", [](Json& j) { Digits(j)["individual_digits"] = false; },
     "individual_digits is 'false', must be true"},
    {"PrefixSpace", [](Json& j) { ByteLevel(j)["add_prefix_space"] = true; },
     "add_prefix_space is 'true', must be false"},
    {"PrefixSpaceByDefault", [](Json& j) { ByteLevel(j).erase("add_prefix_space"); },
     "add_prefix_space is missing, must be false"},
    {"NoRegex", [](Json& j) { ByteLevel(j)["use_regex"] = false; }, "use_regex 'false'"},
    {"Unigram", [](Json& j) { j["model"]["type"] = "Unigram"; }, "model.type 'Unigram'"},
    {"NoModel", [](Json& j) { j.erase("model"); }, "model is missing"},
    {"ModelKey", [](Json& j) { j["model"]["magic"] = 1; }, "key 'magic' of model"},
    {"Dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }, "model.dropout '0.1'"},
    {"Unknown", [](Json& j) { j["model"]["unk_token"] = "<|end|>"; }, "model.unk_token"},
    {"FuseUnknown", [](Json& j) { j["model"]["fuse_unk"] = true; }, "model.fuse_unk 'true'"},
    {"ByteFallback", [](Json& j) { j["model"]["byte_fallback"] = true; }, "model.byte_fallback"},
    {"IgnoreMerges", [](Json& j) { j["model"]["ignore_merges"] = true; }, "model.ignore_merges"},
    {"SubwordPrefix", [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; },
     "model.continuing_subword_prefix '##'"},
    {"WordSuffix", [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; },
     "model.end_of_word_suffix"},
};

const Fault kVocabFaults[] = {
    {"NoVocab", [](Json& j) { j["model"].erase("vocab"); },
     "model.vocab is missing, must be an object"},
    {"NegativeId", [](Json& j) { j["model"]["vocab"]["hi"] = -1; }, "id '-1' of token 'hi'"},
    {"HugeId", [](Json& j) { j["model"]["vocab"]["hi"] = 1LL << 40; }, "not an integer in"},
    {"FractionalId", [](Json& j) { j["model"]["vocab"]["hi"] = 1.5; }, "not an integer in"},
    {"Gap", [](Json& j) { j["model"]["vocab"]["hi"] = 300; }, "no token has id 258"},
    {"TakenId", [](Json& j) { j["model"]["vocab"]["hi"] = 20; }, "id 20 of token 'hi' is taken"},
    {"EmptyToken", [](Json& j) { j["model"]["vocab"][""] = 259; }, "a token is empty"},
    {"NotBytes", [](Json& j) { j["model"]["vocab"]["a b"] = 259; },
     "token 'a b' is not spelled in the byte alphabet"},
    {"SpecialWithTwoIds", [](Json& j) { j["model"]["vocab"]["<|end|>"] = 259; },
     "special token '<|end|>' has id 0 and id 259"},
    {"SpecialTwice", [](Json& j) { j["added_tokens"].push_back(Special(259, "<|end|>")); },
     "duplicate token '<|end|>'"},
    {"SpecialIsByte", [](Json& j) { j["added_tokens"].push_back(Special(99, "a")); },
     "special token 'a' is also the token of a byte"},
    {"OrdinaryAddedToken", [](Json& j) { j["added_tokens"][1]["special"] = false; },
     "added_tokens[1].special is 'false', must be true"},
    {"SingleWord", [](Json& j) { j["added_tokens"][1]["single_word"] = true; },
     "added_tokens[1].single_word 'true'"},
    {"StripsSpace", [](Json& j) { j["added_tokens"][0]["lstrip"] = true; },
     "added_tokens[0].lstrip"},
    {"NoContent", [](Json& j) { j["added_tokens"][0].erase("content"); },
     "added_tokens[0].content is missing, must be a string"},
    {"NoMerges", [](Json& j) { j["model"].erase("merges"); },
     "model.merges is missing, must be an array"},
    {"MergeOfUnknown",
     [](Json& j) {
       j["model"]["merges"].push_back({"h", "oo"});
     },
     "model.merges[1] names unknown token 'oo'"},
    {"MergeIntoUnknown", [](Json& j) { j["model"]["merges"].push_back("i h"); },
     "model.merges[1] names unknown token 'ih'"},
    {"MergeIntoSpecial",
     [](Json& j) {
       j["model"]["vocab"]["<|end|"] = 259;
       j["model"]["merges"].push_back({"<|end|", ">"});
     },
     "model.merges[1] makes the special token '<|end|>'"},
    {"MergeTwice", [](Json& j) { j["model"]["merges"].push_back("h i"); },
     "model.merges[1] repeats model.merges[0]"},
    {"MergeOfThree", [](Json& j) { j["model"]["merges"].push_back("h i i"); },
     "model.merges[1] is 'h i i', must be two tokens"},
    {"MergeIsNumber", [](Json& j) { j["model"]["merges"].push_back(5); },
     "model.merges[1] is '5', must be a pair"},
};

std::string FaultName(const ::testing::TestParamInfo<Fault>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Settings, TokenizerJsonFaultTest, ::testing::ValuesIn(kSettingFaults),
                         FaultName);
INSTANTIATE_TEST_SUITE_P(Vocab, TokenizerJsonFaultTest, ::testing::ValuesIn(kVocabFaults),
                         FaultName);

TEST(TokenizerJsonTest, DuplicateTokenIsRefused) {
  std::string json = SmallTokenizerJson().dump();
  json.replace(json.find("\"a\":"), 4, "\"a\":99,\"a\":");
  EXPECT_THAT(ParseTokenizerJson(json),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("duplicate key")));
}

TEST(TokenizerJsonTest, MergesMayBeTextsOrPairs) {
  Json json = SmallTokenizerJson({{"h", "i"}});
  json["model"]["merges"][0] = "h i";
  GMA_ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec, ParseTokenizerJson(json.dump()));
  EXPECT_EQ(spec.rules.merges.at(BpeRules::PairKey(kFirstByte + 'h', kFirstByte + 'i')).result,
            kFirstMerge);
}

TEST(TokenizerJsonTest, ByteLevelMayStandAloneOrInASequence) {
  Json json = SmallTokenizerJson();
  GMA_ASSERT_OK_AND_ASSIGN(const TokenizerSpec both, ParseTokenizerJson(json.dump()));
  EXPECT_TRUE(both.isolate_digits);
  const Json byte_level = ByteLevel(json);
  json["pre_tokenizer"]["pretokenizers"] = Json::array({byte_level});
  GMA_ASSERT_OK_AND_ASSIGN(const TokenizerSpec sequence, ParseTokenizerJson(json.dump()));
  EXPECT_FALSE(sequence.isolate_digits);
  json["pre_tokenizer"] = byte_level;
  GMA_ASSERT_OK_AND_ASSIGN(const TokenizerSpec alone, ParseTokenizerJson(json.dump()));
  EXPECT_FALSE(alone.isolate_digits);
}

TEST(TokenizerJsonTest, BytesWithoutATokenAreKnown) {
  Json json = SmallTokenizerJson();
  auto& vocab = json["model"]["vocab"];
  vocab.erase(Spell("\xFF"));  // the last id: the others stay dense
  GMA_ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec, ParseTokenizerJson(json.dump()));
  EXPECT_EQ(spec.rules.byte_tokens[0xFF], BpeRules::kNoToken);
  EXPECT_EQ(spec.rules.byte_tokens[0xFE], kFirstByte + 0xFE);
}

TEST(TokenizerJsonTest, TextThatIsNoJsonIsRefusedWithoutQuotingIt) {
  EXPECT_THAT(ParseTokenizerJson("{\"version\": secret"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::AllOf(HasSubstr("tokenizer.json: JSON"),
                                        ::testing::Not(HasSubstr("secret")))));
}

}  // namespace
}  // namespace gma
