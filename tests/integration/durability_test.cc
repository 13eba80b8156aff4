// The real program is killed in the middle of turns, stopped, and given a full disk; what its
// clients see all in all is what they would have seen without that.
#include <atomic>
#include <random>
#include <thread>

#include "gma/v1/sessions.grpc.pb.h"
#include "gmock/gmock.h"
#include "tests/integration/server_process.h"

namespace gma::testing {
namespace {

using ::testing::HasSubstr;

constexpr int kTurns = 3;
constexpr int kTokens = 24;  // an answer

v1::GenerateRequest TurnRequest(const std::string& session, int number, int turn) {
  v1::GenerateRequest request;
  request.set_session_id(session);
  request.mutable_input()->set_text(absl::StrCat("Tell me of ", number, " and ", turn, ". "));
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(static_cast<uint64_t>(1000 * number + turn));
  request.mutable_stop()->set_max_tokens(kTokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

// One client's session: asks again until each turn is done, and keeps what it saw by its number.
class Talk {
 public:
  Talk(std::string session, int number) : session_(std::move(session)), number_(number) {}

  // One try to get on with the next turn; false: it broke off.
  bool Try(v1::Generation::Stub& stub) {
    v1::GenerateRequest request = TurnRequest(session_, number_, turn_);
    request.set_request_key(absl::StrCat("turn ", turn_));
    request.set_after(last_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    const auto reader = stub.Generate(&context, request);
    v1::GenerateResponse event;
    bool finished = false;
    while (reader->Read(&event)) finished |= Take(event);
    const grpc::Status status = reader->Finish();
    if (finished) {
      ++turn_;
      return true;
    }
    const bool again = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                       status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
    if (!again) problem_ = status.error_message();
    return false;
  }

  bool done() const { return turn_ == kTurns || !problem_.empty(); }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const std::string& problem() const { return problem_; }
  uint64_t last() const { return last_; }
  const std::string& session() const { return session_; }

 private:
  // Whether it is the end of the turn.
  bool Take(const v1::GenerateResponse& event) {
    if (event.sequence() == 0) return false;
    if (event.sequence() != last_ + 1) {
      problem_ = absl::StrCat("event ", event.sequence(), " after ", last_);
    }
    last_ = event.sequence();
    if (event.has_tokens()) {
      for (const v1::Token& token : event.tokens().tokens()) tokens_.push_back(token.id());
      last_ += static_cast<uint64_t>(event.tokens().tokens_size()) - 1;
    }
    return event.has_finished();
  }

  const std::string session_;
  const int number_;
  int turn_ = 0;
  uint64_t last_ = 0;
  std::vector<int32_t> tokens_;
  std::string problem_;
};

class DurabilityTest : public ::testing::Test {
 protected:
  std::vector<std::string> Flags(const std::string& directory) {
    return {"--state_dir",         directory, "--max_sessions",    "8",
            "--park_memory_bytes", "4000000", "--max_step_tokens", "16",
            "--checkpoint_bytes",  "0",       "--prefix_bytes",    "0"};
  }
  static std::string OpenSession(Serving& serving) {
    const auto stub = v1::Sessions::NewStub(serving.channel);
    grpc::ClientContext context;
    v1::SessionInfo info;
    const grpc::Status status = stub->Open(&context, {}, &info);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return info.session_id();
  }
  // All talks to their ends, by `threads` clients at a time; `serving` may change behind them.
  void Finish(std::vector<Talk>& talks, int threads, const std::function<int()>& port) {
    std::atomic<size_t> next{0};
    std::vector<std::thread> clients;
    for (int i = 0; i < threads; ++i) {
      clients.emplace_back([&] {
        for (size_t mine = next++; mine < talks.size(); mine = next++) {
          while (!talks[mine].done()) {
            const auto channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", port()),
                                                     grpc::InsecureChannelCredentials());
            const auto stub = v1::Generation::NewStub(channel);
            while (!talks[mine].done() && talks[mine].Try(*stub)) {
            }
            if (!talks[mine].done()) absl::SleepFor(absl::Milliseconds(20));
          }
        }
      });
    }
    for (std::thread& client : clients) client.join();
  }

  TempDir dir_;
};

TEST_F(DurabilityTest, KilledInTheMiddleOfTurnsItLosesAndRepeatsNothing) {
  constexpr int kSessions = 300, kKills = 5;
  std::vector<Talk> talks, undisturbed;
  std::optional<Serving> serving(std::in_place, Flags(dir_.File("state")));
  for (int i = 0; i < kSessions; ++i) talks.emplace_back(OpenSession(*serving), i);
  std::atomic<int> port{serving->grpc_port};
  std::atomic<bool> over{false};
  std::thread clients([&] {
    Finish(talks, 12, [&] { return port.load(); });
    over = true;
  });
  std::mt19937 random(17);
  int kills = 0;
  while (!over) {
    absl::SleepFor(absl::Milliseconds(150 + random() % 300));
    if (over || kills == kKills) continue;
    ++kills;
    serving->process->Signal(SIGKILL);
    serving.emplace(Flags(dir_.File("state")));
    port = serving->grpc_port;
  }
  clients.join();
  EXPECT_EQ(kills, kKills);
  std::printf("%d kills\n", kills);
  Serving other({"--max_sessions", "400"});
  for (int i = 0; i < kSessions; ++i) undisturbed.emplace_back(OpenSession(other), i);
  Finish(undisturbed, 12, [&] { return other.grpc_port; });
  for (size_t i = 0; i < talks.size(); ++i) {
    ASSERT_EQ(talks[i].problem(), "") << i;
    ASSERT_EQ(undisturbed[i].problem(), "") << i;
    EXPECT_EQ(talks[i].tokens(), undisturbed[i].tokens()) << i;
    EXPECT_EQ(talks[i].last(), undisturbed[i].last()) << i;
  }
}

TEST_F(DurabilityTest, SigtermKeepsEverySession) {
  std::optional<Serving> serving(std::in_place, Flags(dir_.File("state")));
  std::vector<Talk> talks;
  for (int i = 0; i < 40; ++i) talks.emplace_back(OpenSession(*serving), i);
  for (Talk& talk : talks) ASSERT_TRUE(talk.Try(*serving->stub)) << talk.problem();
  for (int life = 1; life < kTurns; ++life) {
    serving->process->Signal(SIGTERM);
    ASSERT_EQ(serving->process->ExitCode(absl::Seconds(60)), 0) << serving->process->Log();
    EXPECT_THAT(serving->process->Log(), HasSubstr("\"sessions_saved\""));
    serving.emplace(Flags(dir_.File("state")));
    for (Talk& talk : talks) ASSERT_TRUE(talk.Try(*serving->stub)) << talk.problem();
  }
  Serving other;
  for (int i = 0; i < 40; ++i) {
    Talk alone(OpenSession(other), i);
    while (!alone.done()) ASSERT_TRUE(alone.Try(*other.stub)) << alone.problem();
    EXPECT_EQ(talks[static_cast<size_t>(i)].tokens(), alone.tokens());
  }
}

TEST_F(DurabilityTest, ServingGoesOnWhileTheStoreIsFull) {
  // So little room that it is full at once; nothing that is said is lost for that.
  std::vector<std::string> flags = Flags(dir_.File("state"));
  flags.insert(flags.end(), {"--park_disk_bytes", "20000", "--park_memory_bytes", "100000000"});
  flags.erase(flags.begin() + 4, flags.begin() + 6);
  Serving serving(flags);
  std::vector<Talk> talks;
  for (int i = 0; i < 20; ++i) talks.emplace_back(OpenSession(serving), i);
  for (Talk& talk : talks) {
    while (!talk.done()) ASSERT_TRUE(talk.Try(*serving.stub)) << talk.problem();
  }
  EXPECT_THAT(serving.process->Log(), HasSubstr("\"store_failed\""));
}

TEST_F(DurabilityTest, ASessionOfMoreTokensThanItRemembersIsBroughtBack) {
  std::vector<std::string> flags = Flags(dir_.File("state"));
  flags.insert(flags.end(), {"--rewind_tokens", "8"});
  std::optional<Serving> serving(std::in_place, flags);
  Talk talk(OpenSession(*serving), 1);
  for (int turn = 0; turn < kTurns; ++turn) {
    ASSERT_TRUE(talk.Try(*serving->stub)) << talk.problem() << serving->process->Log();
    serving->process->Signal(SIGKILL);
    serving.emplace(flags);
  }
  Talk alone(OpenSession(*serving), 1);
  while (!alone.done()) ASSERT_TRUE(alone.Try(*serving->stub)) << alone.problem();
  EXPECT_EQ(talk.tokens(), alone.tokens());
}

// Tokens with logprobs of three answers of one session, which is parked before the second and has a
// snapshot before each; with `kill` the server dies in the third.
std::vector<std::string> AnswersOfParked(std::vector<std::string> flags, bool kill) {
  flags.insert(flags.end(), {"--park_format", "bf16", "--snapshot_tokens", "8"});
  flags[3] = "1";  // --max_sessions
  std::optional<Serving> serving(std::in_place, flags);
  const auto open = [&] {
    grpc::ClientContext context;
    v1::SessionInfo info;
    const auto sessions = v1::Sessions::NewStub(serving->channel);
    EXPECT_TRUE(sessions->Open(&context, {}, &info).ok());
    return info.session_id();
  };
  const std::string session = open();
  std::vector<std::string> drawn;
  uint64_t last = 0;
  for (int turn = 0; turn < 3; ++turn) {
    v1::GenerateRequest request = TurnRequest(session, 7, turn);
    request.set_request_key(absl::StrCat("turn ", turn));
    request.mutable_sampling()->set_top_logprobs(0);
    for (bool finished = false; !finished;) {
      request.set_after(last);
      grpc::ClientContext context;
      const auto reader = serving->stub->Generate(&context, request);
      for (v1::GenerateResponse event; !finished && reader->Read(&event);) {
        if (event.sequence() > 0) last = event.sequence();
        if (event.has_tokens()) last += static_cast<uint64_t>(event.tokens().tokens_size()) - 1;
        for (const v1::Token& token : event.tokens().tokens()) {
          drawn.push_back(token.SerializeAsString());
        }
        finished = event.has_finished();
        if (!kill || turn != 2 || drawn.size() < 2 * kTokens + 5) continue;
        kill = false;
        serving->process->Signal(SIGKILL);
      }
      if (finished) break;
      serving.emplace(flags);
    }
    if (turn == 0) open();
  }
  return drawn;
}

TEST_F(DurabilityTest, ARoundedSessionGoesOnAfterAKillAsItWould) {
  const std::vector<std::string> drawn = AnswersOfParked(Flags(dir_.File("one")), false);
  EXPECT_EQ(drawn.size(), static_cast<size_t>(3 * kTokens));
  EXPECT_EQ(AnswersOfParked(Flags(dir_.File("other")), true), drawn);
}

TEST_F(DurabilityTest, ADirectoryIsOneServersAndItsKeyIsSecret) {
  const std::string directory = dir_.File("state");
  Serving serving(Flags(directory));
  EXPECT_EQ(std::filesystem::status(directory + "/state.key").permissions(),
            std::filesystem::perms(0600));
  ServerProcess second({"--model", kModel, "--listen", "127.0.0.1:0", "--metrics_listen",
                        "127.0.0.1:0", "--state_dir", directory});
  EXPECT_EQ(second.ExitCode(absl::Seconds(60)), 2);
  EXPECT_THAT(second.Log(), HasSubstr("another server"));
  ServerProcess nowhere({"--model", kModel, "--listen", "127.0.0.1:0", "--metrics_listen",
                         "127.0.0.1:0", "--state_dir", "/no/such/folder/state"});
  EXPECT_EQ(nowhere.ExitCode(absl::Seconds(60)), 2);
  EXPECT_THAT(nowhere.Log(), HasSubstr("--state_dir"));
}

}  // namespace
}  // namespace gma::testing
