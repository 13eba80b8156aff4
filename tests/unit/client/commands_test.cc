#include "client/cli/commands.h"

#include "gtest/gtest.h"

namespace gma::client {
namespace {

TEST(Commands, BeginWithOneSlash) {
  EXPECT_TRUE(IsCommand("/help"));
  EXPECT_TRUE(IsCommand("/"));
  EXPECT_FALSE(IsCommand("//help"));
  EXPECT_FALSE(IsCommand("help"));
  EXPECT_FALSE(IsCommand(""));
  EXPECT_EQ(MessageOf("//help"), "/help");
  EXPECT_EQ(MessageOf("a//b"), "a//b");
}

}  // namespace
}  // namespace gma::client
