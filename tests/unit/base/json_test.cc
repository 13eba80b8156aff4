#include "base/json.h"

#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr JsonLimits kLimits = {.max_bytes = size_t{1} << 20};

TEST(ParseJson, ReadsEveryKindOfValueInOrder) {
  GMA_ASSERT_OK_AND_ASSIGN(
      Json json,
      ParseJson(R"({"z": [1, -2, 2.5e3, true, null], "a": {"k": "\u00e9\n"}, "": ""})", kLimits));
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_THAT(keys, ElementsAre("z", "a", ""));
  EXPECT_EQ(json["z"], Json::parse("[1, -2, 2500.0, true, null]"));
  EXPECT_EQ(json["a"]["k"], "\xc3\xa9\n");
}

TEST(ParseJson, AgreesWithTheLibraryOnNestedText) {
  for (const char* text : {"0", "\"x\"", "[]", "{}", "[[[]]]", R"({"a":{"a":{"a":[{},{},[1]]}}})",
                           R"([{"a":1},{"a":2},[{"b":[[],{}]}]])", "18446744073709551615",
                           "-9223372036854775808", "1e308", " [1 ,\t2\r\n] "}) {
    GMA_ASSERT_OK_AND_ASSIGN(Json json, ParseJson(text, kLimits));
    EXPECT_EQ(json, Json::parse(text)) << text;
  }
}

TEST(ParseJson, RefusesDuplicateKeysOnEveryLevel) {
  for (const char* text : {R"({"a":1,"a":1})", R"({"x":{"a":1,"b":2,"a":3}})",
                           R"([{"a":1},{"b":1,"b":2}])", R"({"a":1,"\u0061":2})"}) {
    EXPECT_THAT(ParseJson(text, kLimits), StatusIs(kInvalid, HasSubstr("duplicate key"))) << text;
  }
  EXPECT_THAT(ParseJson(R"([{"a":1},{"a":1},{"a":{"a":1}}])", kLimits), IsOk());
}

std::string Nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(ParseJson, RefusesDepthBeyondTheLimit) {
  EXPECT_THAT(ParseJson(Nested(64), kLimits), IsOk());
  EXPECT_THAT(ParseJson(Nested(65), kLimits), StatusIs(kInvalid, HasSubstr("64 levels")));
  EXPECT_THAT(ParseJson(std::string(1 << 20, '['), kLimits),
              StatusIs(kInvalid, HasSubstr("64 levels")));
}

TEST(ParseJson, RefusesNumbersThatDoNotFit) {
  for (const char* text : {"18446744073709551616", "-9223372036854775809",
                           "[1"
                           "0000000000000000000"
                           "00000000000]"}) {
    EXPECT_THAT(ParseJson(text, kLimits), StatusIs(kInvalid, HasSubstr("64 bits"))) << text;
  }
  for (const char* text : {"1e400", "-1e400", "NaN", "Infinity", "-Infinity", "nan"}) {
    EXPECT_THAT(ParseJson(text, kLimits), StatusIs(kInvalid, Not(""))) << text;
  }
}

TEST(ParseJson, RefusesWhatIsNotStrictJson) {
  const std::string cases[] = {"",
                               " ",
                               "{",
                               "[1,]",
                               "{\"a\":1,}",
                               "[1] [2]",
                               "[1]x",
                               "'a'",
                               "{a:1}",
                               "// c\n1",
                               "\"\xff\"",
                               "\"\xc0\x80\"",
                               "\"\xed\xa0\x80\"",
                               "\"\\ud800\"",
                               "\"a\nb\"",
                               "01",
                               "+1",
                               "1.",
                               ".5",
                               "tru",
                               std::string("1\0", 2),
                               std::string("\"\0\"", 3)};
  for (const std::string& text : cases) {
    EXPECT_THAT(ParseJson(text, kLimits), StatusIs(kInvalid, Not(""))) << text;
  }
}

TEST(ParseJson, ErrorsGiveThePositionAndNeverTheText) {
  EXPECT_THAT(ParseJson(R"(["secret", secret])", kLimits),
              StatusIs(kInvalid, AllOf(HasSubstr("byte 12"), Not(HasSubstr("secret")))));
  EXPECT_THAT(ParseJson(R"({"secret":1,"secret":2})", kLimits),
              StatusIs(kInvalid, Not(HasSubstr("secret"))));
}

TEST(ParseJson, LimitsBytesAndValues) {
  EXPECT_THAT(ParseJson("[1,2]", {.max_bytes = 5}), IsOk());
  EXPECT_THAT(ParseJson("[1,2] ", {.max_bytes = 5}),
              StatusIs(kInvalid, HasSubstr("6 bytes, limit 5")));
  // The array and two numbers; the object, its key and its value.
  EXPECT_THAT(ParseJson("[1,2]", {.max_bytes = 99, .max_values = 3}), IsOk());
  EXPECT_THAT(ParseJson("[1,2]", {.max_bytes = 99, .max_values = 2}),
              StatusIs(kInvalid, HasSubstr("too many values")));
  EXPECT_THAT(ParseJson(R"({"a":1})", {.max_bytes = 99, .max_values = 3}), IsOk());
  EXPECT_THAT(ParseJson(R"({"a":1})", {.max_bytes = 99, .max_values = 2}),
              StatusIs(kInvalid, HasSubstr("too many values")));
}

TEST(ParseJson, ManyKeysTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) {
    if (i > 0) text += ",";
    text += "\"" + std::to_string(i) + "\":0";
  }
  text += "}";
  // Quadratic work would take minutes and run into the test's time limit.
  GMA_ASSERT_OK_AND_ASSIGN(Json json, ParseJson(text, {.max_bytes = text.size()}));
  EXPECT_EQ(json.size(), 200'000u);
}

}  // namespace
}  // namespace gma
