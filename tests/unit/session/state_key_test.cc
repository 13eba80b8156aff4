#include "server/session/state_key.h"

#include <sys/stat.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace gma {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

TEST(StateKey, IsMadeOnceAndIsTheOwnersAlone) {
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  const TempDir dir;
  const std::string path = dir.Write("x", "") + ".key";
  const auto made = StateKey::LoadOrMake(path);
  ASSERT_THAT(made, IsOk());
  struct stat info = {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const auto read = StateKey::LoadOrMake(path);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->bytes(), made->bytes());
  EXPECT_TRUE(read->kept());
  EXPECT_FALSE(StateKey::Random().kept());
  chmod(path.c_str(), 0640);
  EXPECT_THAT(StateKey::LoadOrMake(path), StatusIs(kBad, HasSubstr("must have mode 0600")));
  const std::string shorter = dir.Write("short", "abc");
  EXPECT_THAT(StateKey::LoadOrMake(shorter), StatusIs(kBad, HasSubstr("has 3 bytes")));
  EXPECT_THAT(StateKey::LoadOrMake("/no/such/folder/key"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("/no/such/folder/key")));
}

}  // namespace
}  // namespace gma
