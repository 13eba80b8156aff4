// Clients that vanish, stall, flood or hold the wrong key harm nobody.
#include <openssl/sha.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace gma::testing {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr char kTarget[] = "GMA_TEST_TARGET";
constexpr absl::Duration kSecond = absl::Seconds(1);

// Not a test: what ClientProcess runs.
TEST(ClientProcess, DISABLED_Generate) {
  const auto channel =
      grpc::CreateChannel(std::getenv(kTarget), grpc::InsecureChannelCredentials());
  Generate(*v1::Generation::NewStub(channel), GreedyRequest({1}, 1000000));
}

// A client in a process of its own, in the middle of a long answer.
class OtherProcess {
 public:
  explicit OtherProcess(int port) {
    const std::string target = absl::StrCat(kTarget, "=127.0.0.1:", port);
    const char* argv[] = {"rpc_faults_test", "--gtest_filter=ClientProcess.*",
                          "--gtest_also_run_disabled_tests", nullptr};
    const char* env[] = {target.c_str(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, "/proc/self/exe", nullptr, nullptr, const_cast<char**>(argv),
                          const_cast<char**>(env)),
              0);
  }
  ~OtherProcess() { Signal(SIGKILL); }
  void Signal(int signal) {
    kill(pid_, signal);
    if (signal == SIGKILL && !reaped_) reaped_ = waitpid(pid_, nullptr, 0) == pid_;
  }

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
};

class FaultsTest : public ::testing::Test {
 protected:
  void Start(TestServerOptions options = {}) {
    server_ = std::make_unique<TestServer>(std::move(options));
    stub_ = v1::Generation::NewStub(server_->NewChannel());
  }
  static TestServerOptions Paced() {
    TestServerOptions options;
    options.step_time = absl::Milliseconds(1);
    return options;
  }
  // `patience`: how long it comes back while the server is full, as it is told to.
  void ExpectGoodAnswer(absl::Duration patience = absl::ZeroDuration()) {
    ReadAnswer answer;
    Eventually(patience, [&] {
      answer = Generate(*stub_, GreedyRequest({3, 4}, 20));
      return answer.status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED;
    });
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_THAT(answer.tokens, ElementsAreArray(OracleTokens({3, 4}, 20)));
  }

  std::unique_ptr<TestServer> server_;
  std::unique_ptr<v1::Generation::Stub> stub_;
};

TEST_F(FaultsTest, ACancelledRequestGivesItsRowBack) {
  Start(Paced());
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    const auto reader = stub_->Generate(&context, GreedyRequest({1}, 1000000));
    v1::GenerateResponse event;
    ASSERT_TRUE(reader->Read(&event));
    ASSERT_TRUE(server_->RowsBecome(1, kSecond));
    context.TryCancel();
    while (reader->Read(&event)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(server_->RowsBecome(0, kSecond));
  }
}

TEST_F(FaultsTest, AKilledClientGivesItsRowBack) {
  Start(Paced());
  for (int i = 0; i < 3; ++i) {
    OtherProcess client(server_->port());
    ASSERT_TRUE(server_->RowsBecome(1, absl::Seconds(30)));
    client.Signal(SIGKILL);
    EXPECT_TRUE(server_->RowsBecome(0, kSecond));
  }
  ExpectGoodAnswer();
}

TEST_F(FaultsTest, ADeadlineEndsTheRequest) {
  Start(Paced());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(150));
  EXPECT_EQ(Generate(*stub_, GreedyRequest({1}, 1000000), context).status.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(server_->RowsBecome(0, kSecond));
}

TEST_F(FaultsTest, AClientThatDoesNotReadPausesNobodyElse) {
  Start();
  // One without credit, one that lets bytes pile up, one that is frozen.
  SessionClient paused(*stub_);
  v1::SessionOpen open;
  open.set_initial_credit(1);
  paused.Open(open);
  paused.StartGenerate({1}, 1000000);
  grpc::ClientContext context;
  const auto unread = stub_->Generate(&context, GreedyRequest({2}, 1000000));
  OtherProcess frozen(server_->port());
  ASSERT_TRUE(server_->RowsBecome(3, absl::Seconds(30)));
  frozen.Signal(SIGSTOP);
  for (int i = 0; i < 10; ++i) ExpectGoodAnswer();
  context.TryCancel();
  unread->Finish();
}

TEST_F(FaultsTest, AThousandStreamsAtOnceHarmNobody) {
  TestServerOptions options = Paced();
  options.engine.max_waiting = 16;
  Start(options);
  const auto flood = v1::Generation::NewStub(server_->NewChannel());
  struct Stream {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader;
    grpc::Status status;
  };
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 1000; ++i) {
    auto stream = std::make_unique<Stream>();
    stream->reader =
        flood->AsyncGenerate(&stream->context, GreedyRequest({1}, 1000000), &queue, nullptr);
    streams.push_back(std::move(stream));
  }
  // Most were refused at once or are held back by the limit of streams; the rest fill every row.
  ASSERT_TRUE(server_->RowsBecome(8, absl::Seconds(30)));
  const grpc::Status refused = Generate(*stub_, GreedyRequest({1}, 1)).status;
  EXPECT_TRUE(refused.ok() || refused.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  for (const auto& stream : streams) stream->context.TryCancel();
  for (const auto& stream : streams) stream->reader->Finish(&stream->status, stream.get());
  void* tag = nullptr;
  bool ok = false;
  for (int done = 0; done < 2000 && queue.Next(&tag, &ok);) ++done;
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  EXPECT_TRUE(Eventually(absl::Seconds(5), [&] {
    const EngineStatus status = server_->engine().GetStatus();
    return status.rows_used == 0 && status.requests_waiting == 0;
  }));
  // Streams that were cancelled on their way may still come, and go.
  ExpectGoodAnswer(absl::Seconds(5));
}

// The trailing metadata of a refusal says when to come back.
void ExpectRetryHint(const grpc::ClientContext& context) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto hint = trailers.find("retry-after-ms");
  ASSERT_NE(hint, trailers.end());
  EXPECT_GT(std::stoi(std::string(hint->second.data(), hint->second.size())), 0);
}

TEST_F(FaultsTest, AFullQueueSaysWhenToComeBack) {
  TestServerOptions options;
  options.step_time = absl::Milliseconds(300);  // what comes during a step waits for its end
  options.engine.max_waiting = 1;
  Start(options);
  std::atomic<int> refused{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back([&] {
      grpc::ClientContext context;
      const grpc::Status status = Generate(*stub_, GreedyRequest({1}, 3), context).status;
      if (status.ok()) return;
      ++refused;
      EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
      EXPECT_THAT(status.error_message(), HasSubstr("queue is full"));
      ExpectRetryHint(context);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GE(refused.load(), 1);
  EXPECT_LT(refused.load(), 6);
}

TEST_F(FaultsTest, AFullPoolSaysWhenToComeBack) {
  TestServerOptions options = Paced();
  options.engine.max_sessions = 1;
  options.engine.park_memory_bytes = 0;
  Start(options);
  const auto sessions = v1::Sessions::NewStub(server_->NewChannel());
  grpc::ClientContext first_context, second_context;
  v1::SessionInfo info;
  ASSERT_TRUE(sessions->Open(&first_context, {}, &info).ok());
  EXPECT_EQ(sessions->Open(&second_context, {}, &info).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  ExpectRetryHint(second_context);
  grpc::ClientContext request_context;
  EXPECT_EQ(Generate(*stub_, GreedyRequest({1}, 1), request_context).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  ExpectRetryHint(request_context);
}

std::string KeyLine(const std::string& owner, const std::string& key) {
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash);
  return absl::StrCat(
      owner, ":",
      absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(hash), sizeof(hash))), "\n");
}

TEST_F(FaultsTest, SessionsOfOthersAreUnknownOnEveryRpc) {
  TestServerOptions options;
  options.api_keys = *ApiKeys::Parse(KeyLine("alice", "a-key") + KeyLine("bob", "b-key"));
  Start(options);
  const auto sessions = v1::Sessions::NewStub(server_->NewChannel());
  const auto with_key = [](grpc::ClientContext& context, const std::string& key) {
    if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
    return &context;
  };
  v1::SessionInfo info;
  grpc::ClientContext open;
  ASSERT_TRUE(sessions->Open(with_key(open, "a-key"), {}, &info).ok());
  const std::string id = info.session_id();
  const std::vector<std::pair<std::string, grpc::StatusCode>> callers = {
      {"a-key", grpc::StatusCode::OK},
      {"b-key", grpc::StatusCode::NOT_FOUND},
      {"", grpc::StatusCode::UNAUTHENTICATED},
      {"c-key", grpc::StatusCode::UNAUTHENTICATED}};
  for (const auto& [key, code] : callers) {
    grpc::ClientContext contexts[4];
    v1::GetSessionRequest get;
    get.set_session_id(id);
    EXPECT_EQ(sessions->Get(with_key(contexts[0], key), get, &info).error_code(), code);
    v1::AppendRequest append;
    append.set_session_id(id);
    *append.mutable_input() = GreedyRequest({1}, 1).input();
    EXPECT_EQ(sessions->Append(with_key(contexts[1], key), append, &info).error_code(), code);
    v1::GenerateRequest generate = GreedyRequest({1}, 1);
    generate.set_session_id(id);
    EXPECT_EQ(Generate(*stub_, generate, *with_key(contexts[2], key)).status.error_code(), code);
    SessionClient client(*stub_, key);
    v1::SessionRequest resume;
    resume.mutable_open()->set_session_id(id);
    resume.mutable_open()->set_keep(true);
    client.Write(resume);
    if (code != grpc::StatusCode::OK) {
      EXPECT_EQ(client.Finish().error_code(), code);
    }
    v1::ListSessionsResponse list;
    const grpc::Status listed = sessions->List(with_key(contexts[3], key), {}, &list);
    EXPECT_EQ(list.sessions_size(), code == grpc::StatusCode::OK ? 1 : 0);
    EXPECT_EQ(listed.ok(), code != grpc::StatusCode::UNAUTHENTICATED);
  }
  grpc::ClientContext foreign_close, own_close;
  v1::CloseSessionRequest close;
  close.set_session_id(id);
  v1::CloseSessionResponse closed;
  EXPECT_EQ(sessions->Close(with_key(foreign_close, "b-key"), close, &closed).error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(sessions->Close(with_key(own_close, "a-key"), close, &closed).ok());
}

TEST_F(FaultsTest, ShutdownEndsStreamsAsUnavailable) {
  Start(Paced());
  SessionClient idle(*stub_);
  idle.Open({});
  grpc::Status running;
  std::thread client([&] { running = Generate(*stub_, GreedyRequest({1}, 1000000)).status; });
  ASSERT_TRUE(server_->RowsBecome(2, absl::Seconds(10)));
  server_->engine().Shutdown();
  server_->rpc().Shutdown(kSecond);
  client.join();
  EXPECT_EQ(running.error_code(), grpc::StatusCode::UNAVAILABLE) << running.error_message();
  EXPECT_EQ(idle.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

// Resident memory of this process, in KiB.
int64_t ResidentKiB() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE) / 1024;
}

TEST_F(FaultsTest, AThousandSessionsOpenedAndClosedLeaveNoMemoryBehind) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "freed memory stays in the sanitizer's quarantine";
#endif
  TestServerOptions options;
  options.engine.max_sessions = 1000;
  Start(options);
  const auto sessions = v1::Sessions::NewStub(server_->NewChannel());
  const auto churn = [&] {
    std::vector<std::string> ids;
    for (int i = 0; i < 1000; ++i) {
      grpc::ClientContext context;
      v1::SessionInfo info;
      ASSERT_TRUE(sessions->Open(&context, {}, &info).ok());
      ids.push_back(info.session_id());
    }
    for (const std::string& id : ids) {
      grpc::ClientContext context;
      v1::CloseSessionRequest request;
      request.set_session_id(id);
      v1::CloseSessionResponse closed;
      ASSERT_TRUE(sessions->Close(&context, request, &closed).ok());
    }
  };
  churn();  // first use of rows, tables and gRPC's arenas
  const int64_t before = ResidentKiB();
  churn();
  const int64_t after = ResidentKiB();
  std::printf("resident before %ld KiB, after %ld KiB\n", before, after);
  EXPECT_LE(after, before * 102 / 100);
}

}  // namespace
}  // namespace gma::testing
