#include "server/options/server_options.h"

#include <string>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "server/options/limits.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace gma {
namespace {

using ::gma::testing::StatusIs;
using ::gma::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

absl::StatusOr<std::variant<ServerOptions, PrintAndExit>> Parse(
    const std::vector<std::string>& flags) {
  std::vector<const char*> argv = {"gma-server"};
  for (const std::string& flag : flags) argv.push_back(flag.c_str());
  return ParseServerOptions(static_cast<int>(argv.size()), argv.data());
}

absl::StatusOr<ServerOptions> Options(const std::vector<std::string>& flags) {
  auto parsed = Parse(flags);
  if (!parsed.ok()) return parsed.status();
  return std::get<ServerOptions>(*parsed);
}

TEST(ServerOptionsTest, DefaultsAreClosed) {
  GMA_ASSERT_OK_AND_ASSIGN(const ServerOptions options, Options({"--model", "/models/small/"}));
  EXPECT_EQ(options.model_name, "small");
  EXPECT_EQ(options.listen.ToString(), "127.0.0.1:50051");
  EXPECT_EQ(options.metrics_listen.ToString(), "127.0.0.1:9464");
  EXPECT_EQ(options.max_step_tokens, 64);
  EXPECT_EQ(options.session_ttl, absl::Minutes(30));
  EXPECT_EQ(options.drain_timeout, absl::Seconds(30));
  EXPECT_FALSE(options.insecure_remote || options.api_keys.has_value() || options.tls.has_value());
}

TEST(ServerOptionsTest, ReadsEveryFlag) {
  GMA_ASSERT_OK_AND_ASSIGN(const ServerOptions options, Options({"--model=m",
                                                                 "--model_name=n",
                                                                 "--listen=localhost:0",
                                                                 "--metrics_listen=[::1]:1",
                                                                 "--device=cpu",
                                                                 "--weights=bf16",
                                                                 "--threads=2",
                                                                 "--compensated_state",
                                                                 "--deterministic",
                                                                 "--eager",
                                                                 "--allow_nonfinite_weights",
                                                                 "--port_file=p",
                                                                 "--max_sessions=7",
                                                                 "--max_waiting=8",
                                                                 "--max_step_tokens=16",
                                                                 "--max_batch_rows=5",
                                                                 "--session_ttl=90s",
                                                                 "--drain_timeout=0s",
                                                                 "--log_level=debug",
                                                                 "--insecure_remote",
                                                                 "--max_sessions_per_owner=9",
                                                                 "--park_memory_bytes=1000",
                                                                 "--park_format=bf16",
                                                                 "--resume_window=2m",
                                                                 "--resume_events=5",
                                                                 "--state_dir=/d",
                                                                 "--durability=always",
                                                                 "--sync_seconds=3",
                                                                 "--snapshot_tokens=11",
                                                                 "--park_disk_bytes=12",
                                                                 "--owner_disk_bytes=13"}));
  EXPECT_EQ(options.state_dir, "/d");
  EXPECT_EQ(options.durability, "always");
  EXPECT_EQ(options.sync_seconds, 3);
  EXPECT_EQ(options.snapshot_tokens, 11);
  EXPECT_EQ(options.park_disk_bytes, 12);
  EXPECT_EQ(options.owner_disk_bytes, 13);
  EXPECT_EQ(options.model_name, "n");
  EXPECT_EQ(options.weights, "bf16");
  EXPECT_EQ(options.max_batch_rows, 5);
  EXPECT_EQ(options.session_ttl, absl::Seconds(90));
  EXPECT_EQ(options.drain_timeout, absl::ZeroDuration());
  EXPECT_EQ(options.log_level, LogLevel::kDebug);
  EXPECT_EQ(options.max_sessions_per_owner, 9);
  EXPECT_EQ(options.park_memory_bytes, 1000);
  EXPECT_EQ(options.park_format, "bf16");
  EXPECT_EQ(options.resume_window, absl::Minutes(2));
  EXPECT_EQ(options.resume_events, 5);
  EXPECT_TRUE(options.compensated_state && options.deterministic && options.eager &&
              options.allow_nonfinite_weights);
}

TEST(ServerOptionsTest, BatchRowsNeverExceedWhatThereIs) {
  GMA_ASSERT_OK_AND_ASSIGN(const ServerOptions few, Options({"--model=m", "--max_sessions=3"}));
  EXPECT_EQ(few.max_batch_rows, 3);
  GMA_ASSERT_OK_AND_ASSIGN(const ServerOptions small,
                           Options({"--model=m", "--max_step_tokens=9"}));
  EXPECT_EQ(small.max_batch_rows, 9);
}

TEST(ServerOptionsTest, BadFlagsAreRefusedInOneLineThatNamesThem) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "--model"},
      {{"--model"}, "--model"},
      {{"--model=m", "--model=n"}, "--model"},
      {{"--model=m", "--modle=n"}, "--modle"},
      {{"--model=m", "stray"}, "stray"},
      {{"--model=m", "--max_sessions=0"}, "--max_sessions"},
      {{"--model=m", "--max_sessions=1000001"}, "[1, 1000000]"},
      {{"--model=m", "--max_sessions=many"}, "\"many\""},
      {{"--model=m", "--max_sessions=1e3"}, "\"1e3\""},
      {{"--model=m", "--max_sessions=99999999999999999999"}, "[1, 1000000]"},
      {{"--model=m", "--max_step_tokens=-1"}, "--max_step_tokens"},
      {{"--model=m", "--weights=int3"}, "--weights"},
      {{"--model=m", "--log_level=loud"}, "--log_level"},
      {{"--model=m", "--session_ttl=0s"}, "--session_ttl"},
      {{"--model=m", "--durability=maybe"}, "--durability"},
      {{"--model=m", "--sync_seconds=0"}, "--sync_seconds"},
      {{"--model=m", "--redis=redis://h"}, "--redis needs --state_key"},
      {{"--model=m", "--redis=redis://h", "--state_key=k", "--state_dir=d"}, "exclude each other"},
      {{"--model=m", "--resume_window=2h"}, "--resume_window"},
      {{"--model=m", "--resume_events=0"}, "--resume_events"},
      {{"--model=m", "--park_format=f16"}, "--park_format"},
      {{"--model=m", "--session_ttl=inf"}, "--session_ttl"},
      {{"--model=m", "--session_ttl=30"}, "such as 90s"},
      {{"--model=m", "--drain_timeout=-1s"}, "--drain_timeout"},
      {{"--model=m", "--listen=50051"}, "--listen"},
      {{"--model=m", "--metrics_listen=x:y"}, "--metrics_listen"},
      {{"--model=m", "--listen=no.such.host.invalid:1"}, "--listen is \"no.such.host.invalid:1\""},
      {{"--model=m", "--tls_cert=c"}, "--tls_key is missing"},
      {{"--model=m", "--tls_key=k"}, "--tls_cert is missing"},
      {{"--model=m", "--api_keys=/does/not/exist"}, "--api_keys"},
      {{"--model=m", "--model_name=" + std::string(257, 'n')},
       "--model_name is 257 bytes, must be in [1, 256]"},
      {{"--model=/"}, "--model_name is 0 bytes"},
  };
  for (const auto& [flags, part] : cases) {
    const auto parsed = Parse(flags);
    ASSERT_FALSE(parsed.ok()) << part;
    EXPECT_THAT(std::string(parsed.status().message()),
                AllOf(HasSubstr(part), Not(HasSubstr("\n"))));
  }
}

// Every combination of address and protection: what is unsafe does not start.
TEST(ServerOptionsTest, OtherMachinesAreKeptOutUnlessAFlagSaysSo) {
  const TempDir dir;
  const std::string keys = dir.Write("keys", "alice:" + std::string(64, '1'));
  const auto refused = [](const std::string& part) {
    return StatusIs(absl::StatusCode::kInvalidArgument,
                    AllOf(HasSubstr(part), HasSubstr("--insecure_remote")));
  };
  EXPECT_THAT(Parse({"--model=m", "--listen=0.0.0.0:0"}), refused("--listen"));
  EXPECT_THAT(Parse({"--model=m", "--listen=[::]:0"}), refused("--listen"));
  EXPECT_THAT(Parse({"--model=m", "--listen=0.0.0.0:0", "--api_keys=" + keys}),
              refused("--tls_cert"));
  EXPECT_THAT(Parse({"--model=m", "--metrics_listen=0.0.0.0:0"}), refused("--metrics_listen"));
  EXPECT_TRUE(
      Parse({"--model=m", "--listen=0.0.0.0:0", "--metrics_listen=0.0.0.0:0", "--insecure_remote"})
          .ok());
  EXPECT_TRUE(Parse({"--model=m", "--api_keys=" + keys}).ok());
}

TEST(ServerOptionsTest, BrokenCertificatesAreRefused) {
  const TempDir dir;
  const std::string junk = dir.Write("junk.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n");
  EXPECT_THAT(Parse({"--model=m", "--tls_cert=" + junk, "--tls_key=" + junk}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls_cert")));
}

TEST(ServerOptionsTest, TextsAreForStandardOutput) {
  EXPECT_THAT(std::get<PrintAndExit>(*Parse({"--help"})).text,
              AllOf(HasSubstr("--max_sessions"), HasSubstr("Range [1, 1000000]"),
                    Not(HasSubstr("print_limits"))));
  EXPECT_THAT(std::get<PrintAndExit>(*Parse({"--version"})).text, HasSubstr(kServerVersion));
  EXPECT_EQ(std::get<PrintAndExit>(*Parse({"--print_limits"})).text, LimitsMarkdown());
}

}  // namespace
}  // namespace gma
