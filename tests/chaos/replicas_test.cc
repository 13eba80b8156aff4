// Three replicas behind HAProxy: one is killed, drained or frozen, Redis dies, hangs, is full, or
// has forgotten; applications see what they would have seen without that.
#include "tests/chaos/replicas.h"

#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/lib/client.h"
#include "client/lib/session_call.h"
#include "gma/v1/generation.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "tests/chaos/load.h"
#include "tests/chaos/pair.h"
#include "tests/support/status_matchers.h"

namespace gma::chaos {
namespace {

using ::gma::testing::IsOk;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

template <typename Condition>
bool Eventually(const Condition& condition, absl::Duration timeout = kPatience) {
  const absl::Time end = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

class ReplicasTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_THAT(replicas_.Start(), IsOk()); }

  std::unique_ptr<Load> StartLoad(const std::string& address) {
    return std::make_unique<Load>(
        LoadOptions{.address = address,
                    .reference = replicas_.reference().address(),
                    .seed = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())),
                    .clients = 4,
                    .sessions = 3,
                    .patience = kPatience},
        replicas_.open_state());
  }
  // Waits until so many more sessions were gone through and compared.
  static bool Goes(const Load& load, int64_t sessions) {
    const int64_t before = load.counts().sessions;
    return Eventually(
        [&] { return load.counts().sessions >= before + sessions || load.counts().faults > 0; });
  }
  void Tell(const Load& load) {
    const LoadCounts& counts = load.counts();
    std::printf(
        "%ld sessions, %ld turns, %ld tokens, %ld answers taken up again; %ld sessions from the "
        "store, %ld moved, %ld calls of the store failed\n",
        counts.sessions.load(), counts.turns.load(), counts.tokens.load(), counts.resumes.load(),
        replicas_.CountInLogs("\"session_restored\""), replicas_.CountInLogs("\"session_moved\""),
        replicas_.CountInLogs("\"store_failed\""));
  }

  Replicas replicas_;
};

TEST_F(ReplicasTest, OneKilledUnderLoad) {
  const auto load = StartLoad(replicas_.proxy_address());
  for (const size_t i : {0, 1, 2, 0}) {
    EXPECT_TRUE(Goes(*load, 4));
    replicas_.replica(i).process().Kill();
    EXPECT_TRUE(Goes(*load, 6));
    replicas_.replica(i).process().Start();
    ASSERT_THAT(replicas_.replica(i).WaitUntilServing(), IsOk());
  }
  load->Finish();
  Tell(*load);
  EXPECT_THAT(load->faults(), IsEmpty());
  EXPECT_GT(replicas_.CountInLogs("\"session_restored\""), 0);
}

TEST_F(ReplicasTest, OneDrainedUnderLoad) {
  const auto load = StartLoad(replicas_.proxy_address());
  for (const size_t i : {1, 2}) {
    EXPECT_TRUE(Goes(*load, 4));
    Child& process = replicas_.replica(i).process();
    process.Signal(SIGTERM);
    EXPECT_TRUE(process.Ended(kPatience));
    EXPECT_EQ(process.exit_code(), 0);
    EXPECT_TRUE(Goes(*load, 6));
    process.Start();
    ASSERT_THAT(replicas_.replica(i).WaitUntilServing(), IsOk());
  }
  load->Finish();
  Tell(*load);
  EXPECT_THAT(load->faults(), IsEmpty());
}

TEST_F(ReplicasTest, OneFrozenUnderLoadAndBack) {
  const auto load = StartLoad(replicas_.proxy_address());
  for (const size_t i : {2, 0}) {
    EXPECT_TRUE(Goes(*load, 4));
    replicas_.replica(i).process().Signal(SIGSTOP);
    EXPECT_TRUE(Goes(*load, 8));  // none of these gets through without the sessions of that one
    replicas_.replica(i).process().Signal(SIGCONT);
    EXPECT_TRUE(Goes(*load, 4));
  }
  load->Finish();
  Tell(*load);
  EXPECT_THAT(load->faults(), IsEmpty());
}

TEST_F(ReplicasTest, AListOfAddressesDoesWithoutAProxy) {
  const auto load = StartLoad(replicas_.addresses());
  EXPECT_TRUE(Goes(*load, 4));
  replicas_.replica(0).process().Kill();
  EXPECT_TRUE(Goes(*load, 6));
  replicas_.replica(1).process().Signal(SIGTERM);
  EXPECT_TRUE(Goes(*load, 6));
  load->Finish();
  Tell(*load);
  EXPECT_THAT(load->faults(), IsEmpty());
}

TEST_F(ReplicasTest, AnOwnerThatWasFrozenCanWriteNothing) {
  Pair pair(replicas_.replica(0).address(), replicas_);
  ASSERT_THAT(pair.Turn(), IsOk());
  // A stream of the owner's, in the middle of an answer, that nobody cuts.
  const auto stub = v1::Generation::NewStub(
      grpc::CreateChannel(replicas_.replica(0).address(), grpc::InsecureChannelCredentials()));
  v1::GenerateRequest request;
  request.set_session_id(pair.id());
  request.set_request_key("long");
  request.mutable_input()->set_text("Tell me ");
  request.mutable_stop()->set_max_tokens(1'000'000);
  request.mutable_stop()->set_ignore_eos(true);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse event;
  uint64_t last = 0;
  while (last < pair.last() + 20 && reader->Read(&event)) {
    last = event.sequence() + static_cast<uint64_t>(std::max(event.tokens().tokens_size() - 1, 0));
  }
  Child& owner = replicas_.replica(0).process();
  owner.Signal(SIGSTOP);
  // Another one takes the session over and goes on with the turn behind what was seen.
  pair.Use(replicas_.replica(1).address());
  const auto rest = pair.client().ResumeSession(pair.id(), last);
  const auto piece = rest->Next();
  ASSERT_THAT(piece, IsOk());
  ASSERT_TRUE(piece->has_value());
  EXPECT_EQ(rest->last_sequence() - (*piece)->tokens.size(), last);
  owner.Signal(SIGCONT);
  // The owner hears that it is none any more, writes nothing, and says so.
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("moved to another server"));
  EXPECT_TRUE(Eventually([&] { return replicas_.CountInLogs("\"session_moved\"") > 0; }));
  // Neither is what the other did lost, nor does the old owner answer from what it had: it asks.
  rest->Cancel();
  const auto there = NewClient(replicas_.replica(1).address())->GetSession(pair.id());
  ASSERT_THAT(there, IsOk());
  EXPECT_GT(there->last_sequence(), last);
}

TEST_F(ReplicasTest, AServerThatHadTheSessionBeforeAsksForItAgain) {
  Pair pair(replicas_.replica(0).address(), replicas_);
  for (int round = 0; round < 3; ++round) {
    for (const size_t i : {0, 1, 2}) {
      pair.Use(replicas_.replica(i).address());
      ASSERT_THAT(pair.Turn(), IsOk()) << round << " " << i;
      // Calls that write nothing are not answered from an old copy either.
      pair.Use(replicas_.replica((i + 2) % 3).address());
      const auto info = pair.client().GetSession(pair.id());
      ASSERT_THAT(info, IsOk());
      EXPECT_EQ(info->last_sequence(), pair.last());
    }
  }
}

TEST_F(ReplicasTest, AppendsAndRewindsHappenWhereTheyWereMeantTo) {
  Pair pair(replicas_.replica(0).address(), replicas_);
  ASSERT_THAT(pair.Turn(), IsOk());
  const uint64_t last = pair.last();
  // A server that has an older state, or none, goes on from the newer one.
  pair.Use(replicas_.replica(1).address());
  auto info = pair.Append(last);
  ASSERT_THAT(info, IsOk());
  EXPECT_EQ(info->last_sequence(), last + 1);
  const int64_t tokens = info->context_tokens();
  pair.Use(replicas_.replica(0).address());
  ASSERT_THAT(pair.Append(last + 1), IsOk());
  pair.Use(replicas_.replica(1).address());
  info = pair.Rewind(tokens, last + 2);
  ASSERT_THAT(info, IsOk());
  EXPECT_EQ(info->context_tokens(), tokens);
  // A copy that comes late does nothing, wherever it comes to.
  for (const size_t i : {0, 1, 2}) {
    pair.Use(replicas_.replica(i).address());
    for (const auto& late : {pair.Append(last), pair.Rewind(3, last + 1)}) {
      EXPECT_EQ(late.status().code(), absl::StatusCode::kAborted) << late.status();
      EXPECT_THAT(std::string(late.status().message()), HasSubstr("used in between"));
    }
    info = pair.client().GetSession(pair.id());
    ASSERT_THAT(info, IsOk());
    EXPECT_EQ(info->last_sequence(), last + 2);
    EXPECT_EQ(info->context_tokens(), tokens);
  }
}

// Commands of a stream that nobody waits for one by one, and what the server's end does to them.
TEST_F(ReplicasTest, AppendsThatWereOnTheirWayToOneKilledAreFedOnce) {
  std::vector<std::unique_ptr<client::Target>> servers;
  for (const size_t i : {0, 1}) {
    servers.push_back(std::make_unique<client::Target>(
        grpc::CreateChannel(replicas_.replica(i).address(), grpc::InsecureChannelCredentials())));
  }
  client::Targets targets(std::move(servers));
  client::StreamCount streams;
  const std::string no_key;
  v1::SessionOpen open;
  open.set_keep(true);
  const auto call = client::SessionCall::Start({targets, no_key, streams, kPatience}, open);
  const auto opened = call->Next(client::SessionCall::kOpenId, kPatience);
  ASSERT_THAT(opened, IsOk());
  int64_t tokens = 0;
  for (const size_t round : {0, 1, 0}) {
    std::vector<uint64_t> ids;
    for (int32_t i = 0; i < 20; ++i) {
      v1::SessionRequest append;
      append.mutable_append()->mutable_input()->mutable_tokens()->add_ids(5 + i);
      ids.push_back(call->Send(append));
      if (i == 10) replicas_.replica(round).process().Kill();
    }
    for (const uint64_t id : ids) {
      const auto event = call->Next(id, kPatience);
      ASSERT_THAT(event, IsOk());
      ASSERT_EQ(event->appended().context_tokens(), ++tokens);
      call->Forget(id);
    }
    replicas_.replica(round).process().Start();
    ASSERT_THAT(replicas_.replica(round).WaitUntilServing(), IsOk());
  }
  EXPECT_GT(call->resumes(), 0);
  EXPECT_EQ(call->last_sequence(), static_cast<uint64_t>(tokens));
  const auto info =
      NewClient(replicas_.replica(2).address())->GetSession(opened->opened().session_id());
  ASSERT_THAT(info, IsOk());
  EXPECT_EQ(info->context_tokens(), tokens);
  EXPECT_EQ(info->last_sequence(), static_cast<uint64_t>(tokens));
  call->Abort();
  streams.WaitForNone();
}

TEST_F(ReplicasTest, RedisThatIsDeadHangsOrIsFullHoldsUpNobodyAndShows) {
  Pair pair(replicas_.replica(0).address(), replicas_);
  ASSERT_THAT(pair.Turn(), IsOk());
  testing::RedisServer& redis = replicas_.redis();
  const auto lags = [&] { return replicas_.replica(0).Metric("gma_store_lag_seconds") > 0; };
  const auto keeps_up = [&] { return replicas_.replica(0).Metric("gma_store_lag_seconds") == 0; };
  for (const std::string trouble : {"dead", "hangs", "full"}) {
    const double errors = replicas_.Sum("gma_store_errors_total");
    if (trouble == "dead") redis.Kill();
    if (trouble == "hangs") redis.Freeze();
    if (trouble == "full") redis.Command({"CONFIG", "SET", "maxmemory", "1"});
    for (int i = 0; i < 3; ++i) ASSERT_THAT(pair.Turn(), IsOk()) << trouble;
    EXPECT_TRUE(Eventually(lags)) << trouble;
    EXPECT_GT(replicas_.Sum("gma_store_errors_total"), errors) << trouble;
    if (trouble == "dead") redis.Restart();  // with nothing in it
    if (trouble == "hangs") redis.Thaw();
    if (trouble == "full") redis.Command({"CONFIG", "SET", "maxmemory", "0"});
    EXPECT_TRUE(Eventually(keeps_up)) << trouble;
    // What was said meanwhile is there for others.
    replicas_.replica(0).process().Kill();
    pair.Use(replicas_.replica(1).address());
    ASSERT_THAT(pair.Turn(), IsOk()) << trouble;
    replicas_.replica(0).process().Start();
    ASSERT_THAT(replicas_.replica(0).WaitUntilServing(), IsOk());
    pair.Use(replicas_.replica(0).address());
    ASSERT_THAT(pair.Turn(), IsOk()) << trouble;
  }
}

TEST_F(ReplicasTest, ARedisThatForgotIsToldAgain) {
  Pair pair(replicas_.replica(0).address(), replicas_);
  ASSERT_THAT(pair.Turn(), IsOk());
  replicas_.redis().Command({"FLUSHALL"});
  ASSERT_THAT(pair.Turn(), IsOk());
  replicas_.replica(0).process().Kill();
  pair.Use(replicas_.replica(1).address());
  EXPECT_THAT(pair.Turn(), IsOk());
}

TEST_F(ReplicasTest, ARedisWithAnOldStateIsSeenThrough) {
  Pair pair(replicas_.replica(0).address(), replicas_);
  ASSERT_THAT(pair.Turn(), IsOk());
  testing::RedisServer& redis = replicas_.redis();
  const std::string copies = redis.Command({"EVAL",
                                            "local n = 0 for _, key in ipairs(redis.call('KEYS', "
                                            "'gma:*')) do redis.call('COPY', key, 'old:' .. key) n "
                                            "= n + 1 end return n",
                                            "0"});
  EXPECT_NE(copies, "0");
  ASSERT_THAT(pair.Turn(), IsOk());
  replicas_.replica(0).process().Kill();
  redis.Command({"EVAL",
                 "for _, key in ipairs(redis.call('KEYS', 'gma:*')) do redis.call('DEL', key) end "
                 "for _, key in ipairs(redis.call('KEYS', 'old:*')) do redis.call('RENAME', key, "
                 "string.sub(key, 5)) end",
                 "0"});
  pair.Use(replicas_.replica(1).address());
  for (const absl::Status& status :
       {pair.Append(pair.last()).status(), pair.Rewind(1, pair.last()).status(), pair.Turn()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("older than what the client"));
  }
}

}  // namespace
}  // namespace gma::chaos
