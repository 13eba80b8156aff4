#include "base/failpoint.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FailpointTest : public ::testing::Test {
 protected:
  ~FailpointTest() override { ClearFailpoints(); }
};

TEST_F(FailpointTest, AnErrnoComesEachTimeUntilThePointsAreCleared) {
  ASSERT_THAT(SetFailpoints("a=EIO;b=ENOSPC"), IsOk());
  EXPECT_EQ(GMA_FAILPOINT("a"), EIO);
  EXPECT_EQ(GMA_FAILPOINT("a"), EIO);
  EXPECT_EQ(GMA_FAILPOINT("b"), ENOSPC);
  EXPECT_EQ(GMA_FAILPOINT("c"), 0);
  ClearFailpoints();
  EXPECT_EQ(GMA_FAILPOINT("a"), 0);
}

TEST_F(FailpointTest, ACountedPointActsThatTimeOnly) {
  ASSERT_THAT(SetFailpoints("a=EROFS@3"), IsOk());
  std::vector<int> seen;
  for (int i = 0; i < 5; ++i) seen.push_back(GMA_FAILPOINT("a"));
  EXPECT_THAT(seen, ElementsAre(0, 0, EROFS, 0, 0));
}

TEST_F(FailpointTest, CrashKillsTheProcess) {
  const pid_t child = fork();
  if (child == 0) {
    if (!SetFailpoints("a=crash@2").ok()) _exit(3);
    if (GMA_FAILPOINT("a") != 0) _exit(4);
    GMA_FAILPOINT("a");
    _exit(5);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

TEST_F(FailpointTest, MalformedPointsAreRefusedByName) {
  for (const char* text : {"a", "a=", "a=ENOTHING", "a=EIO@", "a=EIO@0", "a=EIO@x", "a=crash@-1"}) {
    EXPECT_THAT(SetFailpoints(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("failpoint action")))
        << text;
  }
}

}  // namespace
}  // namespace gma
