#include "model/tokenizer/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/tokenizer/small_tokenizer.h"

namespace gma {
namespace {

using ::gma::testing::StatusIs;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

int32_t Byte(char c) { return kFirstByte + static_cast<uint8_t>(c); }

std::unique_ptr<Tokenizer> Small() {
  const auto json = SmallTokenizerJson({{"h", "i"}, {" ", "hi"}, {"<", "|"}});
  return *Tokenizer::Parse(json.dump());
}

TEST(TokenizerTest, EncodesWithMergesAcrossNoPieceBorder) {
  EXPECT_THAT(Small()->EncodeText("hi hi!"), ElementsAre(kFirstMerge, kFirstMerge + 1, Byte('!')));
}

TEST(TokenizerTest, UserTextNeverBecomesASpecialToken) {
  const auto tokenizer = Small();
  const std::vector<int32_t> tokens = tokenizer->EncodeText("<|start|><|end|>");
  EXPECT_THAT(tokens, Not(Contains(kStart)));
  EXPECT_THAT(tokens, Not(Contains(kEndOfText)));
  GMA_ASSERT_OK_AND_ASSIGN(const std::string text, tokenizer->Decode(tokens, true));
  EXPECT_EQ(text, "<|start|><|end|>");
}

TEST(TokenizerTest, TemplateTextHoldsSpecialTokens) {
  EXPECT_THAT(Small()->EncodeTemplate("hi<|start|> hi<|end|><|end"),
              ElementsAre(kFirstMerge, kStart, kFirstMerge + 1, kEndOfText, kFirstMerge + 2,
                          Byte('e'), Byte('n'), Byte('d')));
}

TEST(TokenizerTest, LongestSpecialTokenWins) {
  auto json = SmallTokenizerJson();
  json["added_tokens"].push_back({{"id", 258}, {"content", "<|end|><|"}, {"special", true}});
  GMA_ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::Parse(json.dump()));
  EXPECT_THAT(tokenizer->EncodeTemplate("<|end|><|end|>"),
              ElementsAre(258, Byte('e'), Byte('n'), Byte('d'), Byte('|'), Byte('>')));
}

TEST(TokenizerTest, DecodeLeavesSpecialTokensOutIfAsked) {
  const std::vector<int32_t> tokens = {kStart, kFirstMerge, kEndOfText};
  const auto tokenizer = Small();
  EXPECT_EQ(*tokenizer->Decode(tokens, true), "hi");
  EXPECT_EQ(*tokenizer->Decode(tokens, false), "<|start|>hi<|end|>");
}

TEST(TokenizerTest, DecodeNamesAnIdOutsideTheVocabulary) {
  const auto tokenizer = Small();
  for (const int32_t bad : {-1, tokenizer->vocab_size()}) {
    EXPECT_THAT(
        tokenizer->Decode({kStart, bad}, false),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 HasSubstr("is " + std::to_string(bad) + ", must be a token id in [0, 261)")));
  }
}

TEST(TokenizerTest, AnyBytesDecodeToThemselves) {
  const auto tokenizer = Small();
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 50, '\0');
    for (char& c : text) c = static_cast<char>(random());
    const std::vector<int32_t> tokens = tokenizer->EncodeText(text);
    ASSERT_EQ(*tokenizer->Decode(tokens, true), text);
    std::string pieces;
    for (const int32_t token : tokens) pieces += tokenizer->TokenBytes(token);
    ASSERT_EQ(pieces, text);
  }
}

TEST(TokenizerTest, LoadReadsTheFileOfTheDirectory) {
  const auto directory = std::filesystem::path(::testing::TempDir()) / "tokenizer_test";
  std::filesystem::create_directories(directory);
  EXPECT_THAT(Tokenizer::Load(directory.string() + "/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("tokenizer.json")));
  std::ofstream(directory / "tokenizer.json") << SmallTokenizerJson().dump();
  GMA_ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::Load(directory.string()));
  EXPECT_EQ(tokenizer->vocab_size(), 258);
  EXPECT_TRUE(tokenizer->IsSpecial(kStart));
  EXPECT_FALSE(tokenizer->IsSpecial(Byte('a')));
}

}  // namespace
}  // namespace gma
