// One engine and its clients, driven by random events from a seed.
#ifndef GMA_TESTS_SIM_SIM_WORLD_H_
#define GMA_TESTS_SIM_SIM_WORLD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "server/engine/engine.h"
#include "server/metrics/metrics.h"
#include "tests/sim/sim_client.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_decoder.h"

namespace gma::testing {

inline constexpr int64_t kRemembersAll = 1'000'000;  // more tokens than a session gets here

// What happened, for a line that shows that a run reached what it should.
struct SimCounts {
  int64_t streams = 0, tokens = 0, steps = 0, appends = 0, sessions = 0, expired = 0, ambiguous = 0;
  int64_t forks = 0, moves = 0, checkpoints = 0, rewinds = 0, out_of_reach = 0;
  std::map<std::string, int64_t> ends;  // by status code of streams
};

// The life of one engine, from start to drain or shutdown.
class SimWorld {
 public:
  SimWorld(uint64_t seed, SimCounts& counts);

  // One random event, then the invariants.
  void Event();
  // Lets everything come to its end, or shuts down in the middle, and checks that nothing is left.
  void End();

 private:
  int64_t Uniform(int64_t low, int64_t high) {  // both ends included
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int64_t percent) { return Uniform(1, 100) <= percent; }

  // Events.
  void Tick();
  void StartPrivate();
  void StartOnSession();
  void StartAppend();
  void OpenSession();
  void CloseSession();
  void AskAboutSession();
  void ForkSession();
  void MoveSession();
  void KeepCheckpoint();
  void RewindSession();
  void CancelStream();
  void GrantCredit();
  void ReadSomeStream();
  void PassTime();
  void InjectFault();

  GenerateSpec RandomSpec();
  std::vector<int32_t> RandomTokens(int64_t most);
  std::string RandomOwner();
  SimStream* RandomLiveStream();
  std::shared_ptr<SimSession> RandomSession();
  // A session that will stand where `source` does after what was posted to it so far.
  static std::shared_ptr<SimSession> CopyOf(const SimSession& source);
  static std::string RandomName(int64_t number) {
    return std::string(1, static_cast<char>('a' + number));
  }
  void Start(GenerateSpec spec, std::shared_ptr<SimSession> session);
  void CheckInvariants();
  // Of a fork, a checkpoint or a rewind.
  void CheckRefusal(SimSession& session, const absl::Status& status);
  void ForgetEnded();
  absl::Duration now() const { return clock_.Monotonic(); }

  std::mt19937_64 random_;
  SimCounts& counts_;
  FakeClock clock_;
  const EngineOptions options_;
  FakeDecoder decoder_;
  std::unique_ptr<Metrics> metrics_ = Metrics::Create({"fake", "", "", "", ""});
  std::unique_ptr<Engine> engine_;
  std::vector<std::unique_ptr<SimStream>> streams_;
  std::vector<std::shared_ptr<SimSession>> sessions_;
  int64_t calls_open_ = 0;  // session calls that have not answered
  int64_t nans_injected_ = 0, faults_injected_ = 0;
  bool draining_ = false;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SIM_SIM_WORLD_H_
