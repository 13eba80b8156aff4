#include "server/options/listen_address.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ListenAddressTest, ReadsHostsAndPorts) {
  GMA_ASSERT_OK_AND_ASSIGN(const ListenAddress v4, ParseListenAddress("--listen", "127.0.0.1:0"));
  EXPECT_EQ(v4.host, "127.0.0.1");
  EXPECT_EQ(v4.port, 0);
  GMA_ASSERT_OK_AND_ASSIGN(const ListenAddress v6, ParseListenAddress("--listen", "[::1]:65535"));
  EXPECT_EQ(v6.host, "::1");
  EXPECT_EQ(v6.ToString(), "[::1]:65535");
}

TEST(ListenAddressTest, RefusesEverythingElse) {
  for (const char* text :
       {"", "localhost", ":50051", "localhost:", "localhost:65536", "::1:50051", "localhost:-1",
        "localhost:+1", "localhost: 1", "localhost:1x", "[]:1"}) {
    EXPECT_THAT(ParseListenAddress("--listen", text),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("--listen"), HasSubstr("host:port"))))
        << text;
  }
}

TEST(ListenAddressTest, KnowsLoopback) {
  for (const char* host : {"127.0.0.1", "127.5.6.7", "::1", "localhost"}) {
    EXPECT_EQ(*IsLoopback("--listen", {host, 1}), true) << host;
  }
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "128.0.0.1"}) {
    EXPECT_EQ(*IsLoopback("--listen", {host, 1}), false) << host;
  }
}

TEST(ListenAddressTest, SeesAPortInUse) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const ListenAddress taken{"127.0.0.1", ntohs(address.sin_port)};
  EXPECT_THAT(
      ProbePort("--listen", taken),
      StatusIs(absl::StatusCode::kFailedPrecondition,
               "--listen: cannot listen on " + taken.ToString() + ": Address already in use"));
  close(fd);
  EXPECT_THAT(ProbePort("--listen", taken), IsOk());
}

}  // namespace
}  // namespace gma
