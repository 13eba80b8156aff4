#include "client/cli/terminal.h"

#include "gtest/gtest.h"

namespace gma::client {
namespace {

TEST(WithoutControls, AModelCannotDriveTheTerminal) {
  EXPECT_EQ(WithoutControls("a\x1b[2Jb"), "a\xEF\xBF\xBD[2Jb");
  EXPECT_EQ(WithoutControls("\x07\r\x7f"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(WithoutControls("\xC2\x9B"
                            "31m"),
            "\xEF\xBF\xBD"
            "31m");  // CSI in one character
  EXPECT_EQ(WithoutControls("line\n\tna\xC3\xAFve \xF0\x9F\x99\x82"),
            "line\n\tna\xC3\xAFve \xF0\x9F\x99\x82");
  EXPECT_EQ(WithoutControls(""), "");
}

TEST(Grouped, SetsCommas) {
  EXPECT_EQ(Grouped(0), "0");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(Grouped(1000), "1,000");
  EXPECT_EQ(Grouped(1234567), "1,234,567");
  EXPECT_EQ(Grouped(-123456), "-123,456");
}

}  // namespace
}  // namespace gma::client
