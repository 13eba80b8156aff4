// What a Redis that is down, slow, full or wrong does to the store.
#include "server/store/redis_store.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/redis_client.h"
#include "tests/support/redis_server.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/store/store_contract.h"

namespace gma::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr absl::Duration kTtl = absl::Hours(1);
constexpr absl::Duration kTimeout = absl::Milliseconds(300);

const auto kUnavailable = StatusIs(absl::StatusCode::kUnavailable, HasSubstr("redis: "));

std::unique_ptr<RedisStore> Connect(const std::string& address, const Clock& clock,
                                    absl::Duration timeout = kTimeout) {
  auto store = RedisStore::Create({address, timeout}, clock);
  GMA_CHECK(store.ok());
  return *std::move(store);
}

// Every call once, on one session.
std::vector<absl::Status> AllCalls(SessionStore& store) {
  return {store.Claim(SomeKey()).status(), store.PutSnapshot(SomeKey(), 9, kTtl, "snapshot"),
          store.Append(SomeKey(), 9, kTtl, "record", true), store.Remove(SomeKey(), 9),
          store.List(SomeKey().owner, "", 10).status()};
}

class RedisStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogLevel(LogLevel::kError);
    server_ = RedisServer::Start();
    if (server_ == nullptr) GTEST_SKIP() << "no redis-server on this machine";
    store_ = Connect(server_->unix_address(), clock_);
  }
  // Whether a call succeeds before long, as it does once the pause after a failure is over.
  bool Recovers() {
    for (int i = 0; i < 200; ++i) {
      if (store_->PutSnapshot(SomeKey(7), 1, kTtl, "x").ok()) return true;
      absl::SleepFor(absl::Milliseconds(50));
    }
    return false;
  }
  std::string Hash(const StoreKey& key) const {
    return absl::StrCat("gma:{", key.owner, "}:", key.id);
  }
  // The key of the present snapshot.
  std::string Blob(const StoreKey& key) const {
    return absl::StrCat(Hash(key), ":", server_->Command({"HGET", Hash(key), "snapshot"}));
  }

  RealClock clock_;
  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<RedisStore> store_;
};

TEST_F(RedisStoreTest, KilledIsUnavailableAndFoundAgain) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Kill();
  for (const absl::Status& status : AllCalls(*store_)) EXPECT_THAT(status, kUnavailable);
  server_->Restart();
  EXPECT_TRUE(Recovers());
}

TEST_F(RedisStoreTest, AConnectionThatWentWithARestartIsNotUsed) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Restart();
  // The first call already: the connection is known to be closed, the script to be forgotten.
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Command({"SCRIPT", "FLUSH"});
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "y"), IsOk());
}

TEST_F(RedisStoreTest, FrozenEndsInTimeAndItsLateAnswersAreNobodys) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Freeze();
  const absl::Time start = absl::Now();
  for (const absl::Status& status : AllCalls(*store_)) EXPECT_THAT(status, kUnavailable);
  const absl::Duration took = absl::Now() - start;
  server_->Thaw();
  std::printf("5 calls on a frozen server, timeout %s: %s\n",
              absl::FormatDuration(kTimeout).c_str(), absl::FormatDuration(took).c_str());
  EXPECT_LT(took, 60 * kTimeout);  // they end; how exactly is printed
  ASSERT_TRUE(Recovers());
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 20, kTtl, "after"), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "after");
}

TEST_F(RedisStoreTest, PausedEndsInTimeAndRecovers) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Command({"CLIENT", "PAUSE", "1500", "WRITE"});
  EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), kUnavailable);
  EXPECT_TRUE(Recovers());
}

TEST_F(RedisStoreTest, FullIsSaidAndTheSleepingStillWakeAndGo) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, std::string(300'000, 's')), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "r", true), IsOk());
  server_->Command({"CONFIG", "SET", "maxmemory", "1mb"});
  const auto full = StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("OOM"));
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "smaller"), full);
  EXPECT_THAT(store_->PutSnapshot(SomeKey(2), 1, kTtl, "new"), full);
  EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "s", true), full);
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, std::string(300'000, 's'));
  EXPECT_THAT(session.journal, ElementsAre("r"));
  EXPECT_THAT(store_->List(SomeKey().owner, "", 10), IsOk());
  EXPECT_THAT(store_->Remove(SomeKey(), session.epoch), IsOk());
  server_->Command({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_THAT(store_->PutSnapshot(SomeKey(2), 1, kTtl, "new"), IsOk());
}

TEST_F(RedisStoreTest, AReadOnlyReplicaIsUnavailable) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Command({"REPLICAOF", "127.0.0.1", "1"});
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "y"), kUnavailable);
  EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), kUnavailable);
  EXPECT_THAT(store_->Claim(SomeKey()), kUnavailable);
  EXPECT_THAT(store_->Remove(SomeKey(), 1), kUnavailable);
  server_->Command({"REPLICAOF", "NO", "ONE"});
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "y"), IsOk());
}

TEST_F(RedisStoreTest, AKeyOfAWrongTypeIsAnErrorAndNoCrash) {
  const std::string hash = Hash(SomeKey());
  for (std::string key : {hash, std::string(), hash + ":journal",
                          absl::StrCat("gma:{", SomeKey().owner, "}:index")}) {
    server_->Command({"FLUSHALL"});
    ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
    if (key.empty()) key = Blob(SomeKey());
    server_->Command({"DEL", key});
    server_->Command({"XADD", key, "*", "a", "b"});
    int errors = 0;
    for (const absl::Status& status : AllCalls(*store_)) {
      if (status.ok() || status.code() == absl::StatusCode::kNotFound) continue;
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kInternal, HasSubstr("WRONGTYPE"))) << key;
      ++errors;
    }
    EXPECT_GT(errors, 0) << key;
  }
}

TEST_F(RedisStoreTest, GarbageInTheFieldsIsAnErrorAndNoCrash) {
  for (const char* field : {"epoch", "saved_at", "ttl", "snapshot", "records", "gone",
                            "snapshot_bytes", "journal_bytes"}) {
    for (const char* garbage : {"", "x", "-5", "1e400", "nan", "99999999999999999999", "\xff"}) {
      server_->Command({"FLUSHALL"});
      ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
      server_->Command({"HSET", Hash(SomeKey()), field, garbage});
      for (const absl::Status& status : AllCalls(*store_)) {
        EXPECT_THAT(status.code(),
                    ::testing::AnyOf(absl::StatusCode::kOk, absl::StatusCode::kInternal,
                                     absl::StatusCode::kNotFound, absl::StatusCode::kAborted,
                                     absl::StatusCode::kDataLoss))
            << field << " " << garbage << " " << status;
      }
    }
  }
}

TEST_F(RedisStoreTest, ContentThatIsMissingIsLossAndNotAnEmptySession) {
  for (const bool snapshot : {true, false}) {
    ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
    ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), IsOk());
    server_->Command({"DEL", snapshot ? Blob(SomeKey()) : Hash(SomeKey()) + ":journal"});
    const auto lost = StatusIs(absl::StatusCode::kDataLoss, HasSubstr("missing in redis"));
    EXPECT_THAT(store_->Claim(SomeKey()), lost);
    EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "z", true), lost);
  }
}

TEST_F(RedisStoreTest, AFlippedBitInTheBlobPassesThroughToTheSeal) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "abc"), IsOk());
  server_->Command({"SETRANGE", Blob(SomeKey()), "1", "c"});
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "acc");
}

TEST_F(RedisStoreTest, WhoSleptThroughARemovalCannotBringTheSessionBack) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  const auto other = Connect(server_->unix_address(), clock_);
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, other->Claim(SomeKey()));
  ASSERT_THAT(other->Remove(SomeKey(), session.epoch), IsOk());
  const auto fenced = StatusIs(absl::StatusCode::kAborted, HasSubstr("epoch 2"));
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "stale"), fenced);
  EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "stale", false), fenced);
  EXPECT_THAT(store_->Claim(SomeKey()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no")));
}

TEST_F(RedisStoreTest, NoSnapshotOutlivesTheNext) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(store_->PutSnapshot(SomeKey(), 2, kTtl, "x"), IsOk());
    ASSERT_THAT(store_->Append(SomeKey(), 2, kTtl, "y", true), IsOk());
    EXPECT_EQ(store_->PutSnapshot(SomeKey(), 1, kTtl, "stale").code(), absl::StatusCode::kAborted);
    EXPECT_EQ(server_->Command({"DBSIZE"}), "4");  // hash, snapshot, journal, index
  }
  ASSERT_THAT(store_->Remove(SomeKey(), 2), IsOk());
  EXPECT_EQ(server_->Command({"DBSIZE"}), "1");  // the hash with the epoch
}

TEST_F(RedisStoreTest, KeysExpireContentFirst) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), IsOk());
  const auto life = [this](const std::string& key) {
    return absl::Milliseconds(std::stoll(server_->Command({"PTTL", key})));
  };
  const std::string hash = Hash(SomeKey());
  for (const std::string& key : {Blob(SomeKey()), hash + ":journal"}) {
    EXPECT_GT(life(key), kTtl + absl::Minutes(1));
    EXPECT_LE(life(key), kTtl + absl::Minutes(2));
  }
  for (const std::string& key : {hash, absl::StrCat("gma:{", SomeKey().owner, "}:index")}) {
    EXPECT_GT(life(key), kTtl + absl::Hours(7 * 24) - absl::Minutes(1));
    EXPECT_LE(life(key), kTtl + absl::Hours(7 * 24));
  }
}

TEST(RedisAddressTest, PasswordAndDatabaseOverTcp) {
  const auto server = RedisServer::Start(true, "open sesame");
  if (server == nullptr) GTEST_SKIP() << "no redis-server on this machine";
  RealClock clock;
  const std::string host = absl::StrCat("127.0.0.1:", server->port());
  const auto store = Connect(absl::StrCat("redis://:open sesame@", host, "/3"), clock);
  ASSERT_THAT(store->PutSnapshot(SomeKey(), 1, kTtl, std::string(9'000'000, 's')), IsOk());
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
        std::string("*2000000000\r\n"),
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
    EXPECT_FALSE(Connect(server.address(), clock, kTimeout / 3)->Claim(SomeKey()).ok()) << answer;
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
  EXPECT_THAT(Connect(hangs_up.address(), clock)->Claim(SomeKey()), kUnavailable);
  // A byte every 20 ms would keep a timeout of each read alone waiting for an hour.
  const LyingServer drips("$200000\r\n" + std::string(200'000, 'x'), true, false);
  EXPECT_THAT(Connect(drips.address(), clock)->Claim(SomeKey()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("in time")));
}

}  // namespace
}  // namespace gma::testing
