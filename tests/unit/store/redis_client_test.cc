// Addresses of Redis, and what a server that is none answers.
#include "server/store/redis_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/redis_store.h"
#include "tests/support/redis_server.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/store/store_contract.h"

namespace gma::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::unique_ptr<RedisStore> Connect(const std::string& address, const Clock& clock,
                                    absl::Duration timeout = absl::Milliseconds(200)) {
  auto store = RedisStore::Create({address, timeout}, clock);
  GMA_CHECK(store.ok());
  return *std::move(store);
}

TEST(RedisAddressTest, PasswordAndDatabaseOverTcp) {
  const auto server = RedisServer::Start(true, "open sesame");
  if (server == nullptr) GTEST_SKIP() << "no redis-server on this machine";
  RealClock clock;
  const std::string host = absl::StrCat("127.0.0.1:", server->port());
  const auto store =
      Connect(absl::StrCat("redis://:open sesame@", host, "/3"), clock, absl::Seconds(10));
  ASSERT_THAT(store->PutSnapshot(SomeKey(), 1, absl::Hours(1), std::string(9'000'000, 's')),
              IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, std::string(9'000'000, 's'));
  EXPECT_THAT(server->Command({"INFO", "keyspace"}), HasSubstr("db3:keys=3"));
  for (const char* user : {":wrong@", ""}) {
    const absl::Status refused =
        Connect(absl::StrCat("redis://", user, host), clock)->Remove(SomeKey(), 1);
    EXPECT_EQ(refused.code(), absl::StatusCode::kInternal) << refused;
    EXPECT_THAT(std::string(refused.message()), Not(HasSubstr("wrong@")));
  }
}

TEST(RedisAddressTest, OnlyWhatIsDocumentedIsRead) {
  GMA_ASSERT_OK_AND_ASSIGN(const RedisAddress full, ParseRedisAddress("redis://:p@:w@host:1/2"));
  EXPECT_EQ(full.password, "p@:w");
  EXPECT_EQ(full.host, "host");
  EXPECT_EQ(full.port, 1);
  EXPECT_EQ(full.database, 2);
  GMA_ASSERT_OK_AND_ASSIGN(const RedisAddress v6, ParseRedisAddress("redis://[::1]"));
  EXPECT_EQ(v6.host, "::1");
  EXPECT_EQ(v6.port, 6379);
  for (const char* bad :
       {"", "host", "unix:", "unix:relative", "redis://", "redis://:1", "redis://h:0",
        "redis://h:65536", "redis://h:x", "redis://h/-1", "redis://h/x", "redis://[::1",
        "redis://user:secret@h", "redis://@h", "rediss://h", "redis://:@h"}) {
    const absl::Status refused = ParseRedisAddress(bad).status();
    EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("redis://[:")))
        << bad;
    EXPECT_THAT(std::string(refused.message()), Not(HasSubstr("secret")));
  }
}

// A server that answers whatever it is asked with the same bytes, on a Unix socket.
class LyingServer {
 public:
  // `drip`: one byte at a time. `hang_up`: closes the connection after the bytes.
  LyingServer(std::string answer, bool drip, bool hang_up)
      : answer_(std::move(answer)), drip_(drip), hang_up_(hang_up) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, directory_.File("s").c_str(), sizeof(address.sun_path) - 1);
    listener_ = socket(AF_UNIX, SOCK_STREAM, 0);
    GMA_CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    GMA_CHECK(listen(listener_, 16) == 0);
    GMA_CHECK(pipe(stop_) == 0);
    thread_ = std::thread([this] { Serve(); });
  }
  ~LyingServer() {
    GMA_CHECK(write(stop_[1], "x", 1) == 1);
    thread_.join();
    for (const int fd : {listener_, stop_[0], stop_[1]}) close(fd);
  }
  std::string address() const { return "unix:" + directory_.File("s"); }

 private:
  // True when the test is over.
  bool WaitFor(int fd, int milliseconds) {
    pollfd waited[2] = {{stop_[0], POLLIN, 0}, {fd, POLLIN, 0}};
    poll(waited, 2, milliseconds);
    return waited[0].revents != 0;
  }
  void Serve() {
    while (!WaitFor(listener_, -1)) {
      const int peer = accept(listener_, nullptr, nullptr);
      while (!WaitFor(peer, -1)) {
        char buffer[65536];
        if (read(peer, buffer, sizeof(buffer)) <= 0) break;
        const size_t piece = drip_ ? 1 : std::max<size_t>(answer_.size(), 1);
        for (size_t i = 0; i < answer_.size(); i += piece) {
          if (drip_ && WaitFor(-1, 20)) break;
          if (send(peer, answer_.data() + i, piece, MSG_NOSIGNAL) < 0) break;
        }
        if (hang_up_) break;
      }
      close(peer);
    }
  }

  TempDir directory_;
  const std::string answer_;
  const bool drip_, hang_up_;
  int listener_ = -1;
  int stop_[2] = {-1, -1};
  std::thread thread_;
};

TEST(RedisLiesTest, AnyAnswerIsAnErrorInTimeAndNoCrash) {
  SetLogLevel(LogLevel::kError);
  RealClock clock;
  const std::string digest = "$40\r\n" + std::string(40, 'a') + "\r\n";
  for (const std::string& answer :
       {std::string("garbage\r\n"),
        std::string("\0\0\0\0", 4),
        std::string(":1\r\n"),
        std::string("+OK\r\n"),
        std::string("$-1\r\n"),
        std::string("*0\r\n"),
        std::string("*-1\r\n"),
        std::string("*1\r\n:5\r\n"),
        std::string("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n"),
        std::string("*20000000\r\n"),
        std::string("*99999999999999999999\r\n"),
        std::string("$2000000000\r\nx"),
        std::string("$-5\r\n"),
        std::string("-\r\n"),
        digest,
        digest + "*1\r\n$2\r\nok\r\n",
        digest + "*2\r\n$2\r\nok\r\n$1\r\nx\r\n",
        digest + "*3\r\n$7\r\nexpired\r\n$1\r\nx\r\n$1\r\ny\r\n",
        digest + "*2\r\n$6\r\nfenced\r\n$2\r\n-1\r\n",
        digest + "*1\r\n$-1\r\n"}) {
    const LyingServer server(answer, false, false);
    EXPECT_FALSE(Connect(server.address(), clock)->Claim(SomeKey()).ok()) << answer;
  }
}

TEST(RedisLiesTest, PassingErrorsAreUnavailable) {
  RealClock clock;
  for (const char* error : {"LOADING Redis is loading the dataset in memory",
                            "BUSY running a script", "ERR max number of clients reached"}) {
    const LyingServer server(absl::StrCat("-", error, "\r\n"), false, false);
    EXPECT_THAT(Connect(server.address(), clock)->Claim(SomeKey()),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr(error)));
  }
}

TEST(RedisLiesTest, HangingUpAndDrippingEndInTime) {
  RealClock clock;
  const LyingServer hangs_up("$40\r\nhalf", false, true);
  EXPECT_THAT(Connect(hangs_up.address(), clock)->Claim(SomeKey()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("closed the connection")));
  // A byte every 20 ms would keep a timeout of each read alone waiting for an hour.
  const LyingServer drips("$200000\r\n" + std::string(200'000, 'x'), true, false);
  EXPECT_THAT(Connect(drips.address(), clock)->Claim(SomeKey()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("in time")));
}

}  // namespace
}  // namespace gma::testing
