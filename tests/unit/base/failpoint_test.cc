#include "base/failpoint.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
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

// Not a test: what the child of the next one runs.
TEST_F(FailpointTest, DISABLED_ReachAPoint) { EXPECT_EQ(GMA_FAILPOINT("here"), EIO); }

TEST_F(FailpointTest, AProcessTakesItsPointsFromTheEnvironment) {
  const auto run = [](const char* points) {
    const pid_t child = fork();
    if (child == 0) {
      setenv("GMA_FAILPOINTS", points, 1);
      execl("/proc/self/exe", "base_test", "--gtest_filter=*DISABLED_ReachAPoint",
            "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr);
      _exit(127);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return status;
  };
  EXPECT_EQ(run("there=EROFS;here=EIO"), 0);
  const int crashed = run("here=crash");
  EXPECT_TRUE(WIFSIGNALED(crashed) && WTERMSIG(crashed) == SIGKILL) << crashed;
  const int malformed = run("here=EWHATEVER");
  EXPECT_TRUE(WIFEXITED(malformed) && WEXITSTATUS(malformed) == 2) << malformed;
}

}  // namespace
}  // namespace gma
