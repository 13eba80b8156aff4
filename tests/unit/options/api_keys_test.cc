#include "server/options/api_keys.h"

#include <openssl/sha.h>

#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string HashOf(const std::string& key) {
  unsigned char hash[32];
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash), 32));
}

TEST(ApiKeysTest, FindsTheOwnerOfEachKey) {
  GMA_ASSERT_OK_AND_ASSIGN(
      const ApiKeys keys,
      ApiKeys::Parse(absl::StrCat("# staff\n\nalice:", HashOf("a-key"), "\r\nbob:", HashOf("b-key"),
                                  "\nalice:", HashOf("second key of alice"))));
  EXPECT_EQ(keys.OwnerOf("a-key"), "alice");
  EXPECT_EQ(keys.OwnerOf("second key of alice"), "alice");
  EXPECT_EQ(keys.OwnerOf("b-key"), "bob");
  EXPECT_EQ(keys.OwnerOf(""), std::nullopt);
  EXPECT_EQ(keys.OwnerOf("a-ke"), std::nullopt);
  EXPECT_EQ(keys.OwnerOf(HashOf("a-key")), std::nullopt);
}

TEST(ApiKeysTest, RefusesBadLinesByNumberWithoutShowingThem) {
  const std::string hash = HashOf("k");
  for (const std::string& line :
       {std::string("secretword"), ":" + hash, "own er:" + hash, "alice:" + hash.substr(1),
        "alice:" + hash + "0", "alice:" + hash.substr(1) + "g",
        std::string(65, 'a') + ":" + hash}) {
    EXPECT_THAT(ApiKeys::Parse("# first\n" + line + "\n"),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("line 2"), Not(HasSubstr("secretword")))))
        << line;
  }
  EXPECT_THAT(ApiKeys::Parse("a:" + hash + "\nb:" + hash),
              StatusIs(absl::StatusCode::kInvalidArgument, "line 2 repeats a key"));
  EXPECT_THAT(ApiKeys::Parse("# nobody\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no key")));
}

}  // namespace
}  // namespace gma
