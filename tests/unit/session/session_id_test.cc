#include "server/session/session_id.h"

#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

TEST(SessionIdTest, HexAndBack) {
  const SessionId id({0x0123456789abcdef, 0x00000000000000ff});
  EXPECT_EQ(id.Hex(), "0123456789abcdef00000000000000ff");
  EXPECT_EQ(id.Short(), "01234567");
  GMA_ASSERT_OK_AND_ASSIGN(const SessionId back,
                           SessionId::FromHex("0123456789ABCDEF00000000000000fF"));
  EXPECT_EQ(back, id);
}

TEST(SessionIdTest, RefusesEverythingElse) {
  EXPECT_THAT(SessionId::FromHex(""),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 bytes")));
  EXPECT_THAT(SessionId::FromHex(std::string(33, '0')),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("33 bytes")));
  EXPECT_THAT(SessionId::FromHex("0123456789abcdef0000000000000g00"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("byte 29")));
}

TEST(SessionIdTest, RandomIdsDiffer) {
  std::set<SessionId> ids;
  for (int i = 0; i < 1000; ++i) ids.insert(SessionId::Random());
  EXPECT_EQ(ids.size(), 1000u);
}

}  // namespace
}  // namespace gma
