#include "client/cli/settings.h"

#include "gtest/gtest.h"

namespace gma::client {
namespace {

TEST(Settings, StartWithSensibleValuesForAChat) {
  const Settings settings;
  EXPECT_EQ(settings.sampling().temperature(), 0.2);
  EXPECT_EQ(settings.sampling().top_p(), 0.9);
  EXPECT_EQ(settings.sampling().repetition_penalty(), 1.05);
  EXPECT_EQ(settings.stop().max_tokens(), 1024);
  EXPECT_FALSE(settings.sampling().has_seed());
}

TEST(Settings, EachCanBeSetAndGivenBackToTheModel) {
  for (const SettingInfo& info : Settings::All()) {
    Settings settings;
    ASSERT_TRUE(settings.Set(info.name, "1").ok()) << info.name;
    EXPECT_NE(settings.Describe().find(info.name), std::string::npos);
    ASSERT_TRUE(settings.Set(info.name, "default").ok());
    EXPECT_NE(settings.Describe().find(std::string(info.name)), std::string::npos);
  }
  Settings settings;
  ASSERT_TRUE(settings.Set("seed", "18446744073709551615").ok());
  EXPECT_EQ(settings.sampling().seed(), 18446744073709551615u);
  ASSERT_TRUE(settings.Set("max_tokens", "5").ok());
  EXPECT_EQ(settings.stop().max_tokens(), 5);
  ASSERT_TRUE(settings.Set("temperature", "default").ok());
  EXPECT_FALSE(settings.sampling().has_temperature());
}

TEST(Settings, RefuseWhatIsNoNumberAndKeepTheOldValue) {
  Settings settings;
  for (const char* value : {"", "hot", "nan", "inf", "1 2", "0x", "--1"}) {
    const absl::Status status = settings.Set("temperature", value);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << value;
  }
  EXPECT_EQ(settings.sampling().temperature(), 0.2);
  EXPECT_FALSE(settings.Set("top_k", "1.5").ok());
  EXPECT_EQ(settings.Set("seed", "-1").message(),
            "seed is \"-1\", must be an integer in [0, 2^64)");
}

TEST(Settings, AnUnknownNameListsThoseThatThereAre) {
  Settings settings;
  const absl::Status status = settings.Set("temprature", "1");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("temperature"), absl::string_view::npos);
}

}  // namespace
}  // namespace gma::client
