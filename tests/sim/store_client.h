// A client of the simulation with a store: one session, one thing at a time, and its own record of
// it. Whatever happens to servers and streams, what it sees must be the undisturbed run.
#ifndef GMA_TESTS_SIM_STORE_CLIENT_H_
#define GMA_TESTS_SIM_STORE_CLIENT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "server/engine/engine.h"
#include "tests/sim/sim_store.h"
#include "tests/sim/turn_model.h"
#include "tests/support/fake_clock.h"

namespace gma::testing {

struct StoreCounts {
  int64_t turns = 0, tokens = 0, appends = 0, inputs = 0, rewinds = 0, forks = 0, gets = 0;
  int64_t retries = 0, resumed = 0, cancelled = 0, closed = 0;
  // Sessions that are no longer followed: a write was said to have failed; the store has lied; an
  // open that nobody had built on was lost.
  int64_t tainted = 0, lied = 0, lost_opens = 0;
  int64_t crossed =
      0;  // input became a turn of its own, and the end of the one before was not read
  std::map<std::string, int64_t> refusals;  // by status code
};

class StoreClient {
 public:
  // All but the owner's name outlive the client. `resume_window`: that of the servers.
  StoreClient(std::string owner, const FakeClock& clock, absl::Duration resume_window,
              std::mt19937_64& random, SimStoreData& store, StoreCounts& counts)
      : owner_(std::move(owner)),
        clock_(clock),
        resume_window_(resume_window),
        random_(random),
        store_(store),
        counts_(counts) {}

  // Does something: begins, goes on, cuts or cancels.
  void Act(Engine& engine);
  // Takes what its stream has.
  void Read();
  // Comes to the end of what it does, and then looks whether all is there.
  void Conclude(Engine& engine);
  // It has no connection any more: what is on its way is lost. Its stream, if it has one.
  std::shared_ptr<TokenStream> Disconnect();

  bool idle() const { return op_ == Op::kNone; }
  // The session is closed, or followed no more.
  bool over() const { return over_; }
  bool concluded() const { return concluded_; }
  // Copies of its session that came into being.
  std::vector<std::unique_ptr<StoreClient>> TakeForks() { return std::move(forks_); }

 private:
  enum class Op { kNone, kOpen, kGenerate, kAppend, kRewind, kCheckpoint, kFork, kGet, kClose };
  enum class Proof { kRefusal, kContents };

  int64_t Uniform(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int64_t percent) { return Uniform(1, 100) <= percent; }
  std::vector<int32_t> RandomTokens(int64_t most);

  void Begin();
  void BeginGenerate();
  // Sends what it does to the server, again if need be.
  void Call(Engine& engine);
  void CallGenerate(Engine& engine);
  void SendInput(Engine& engine);
  template <typename T>
  EngineCallback<T> Answer(void (StoreClient::*done)(const T&));
  void OnEvent(const StreamEvent& event);
  void OnFinished(const FinishedEvent& event);
  // Whether the turn may end before its time.
  bool MayBeCut() const;
  // The turn is over: what became of its input?
  void Settle();
  void OnStreamEnd(const absl::Status& status);
  void OnOpened(const SessionSnapshotInfo& info);
  void OnAppended(const SessionSnapshotInfo& info);
  void OnRewound(const SessionSnapshotInfo& info);
  void OnCheckpoint(const CheckpointInfo& info);
  void OnForked(const SessionSnapshotInfo& info);
  void OnInfo(const SessionSnapshotInfo& info);
  void OnClosed(const SessionSnapshotInfo& info);
  void OnClosedBefore();
  void OnInputAnswered(const absl::StatusOr<SessionSnapshotInfo>& info);
  void OnRefused(const absl::Status& status);
  // What it was told is not what it should be; ends the simulation unless the store is to blame.
  void Mismatch(Proof proof, const std::string& what);
  void Done() { op_ = Op::kNone; }
  void Trace(const std::string& line) const;

  const std::string owner_;
  const FakeClock& clock_;
  const absl::Duration resume_window_;
  std::mt19937_64& random_;
  SimStoreData& store_;
  StoreCounts& counts_;
  std::optional<SessionId> id_;
  SessionModel model_;
  bool durable_ = false;  // something of it was told that is written before it is told
  bool over_ = false, concluding_ = false, checked_ = false, concluded_ = false;

  Op op_ = Op::kNone;
  std::shared_ptr<bool> call_;  // of the call that is on its way: false when nobody hears it
  std::string key_;
  GenerateSpec spec_;
  std::vector<int32_t> input_;
  int64_t target_ = 0, keys_ = 0, tries_ = 0;
  std::optional<TurnModel> turn_;
  std::shared_ptr<TokenStream> stream_;
  int64_t seen_ = 0;  // number of the last event
  bool started_ = false, cancel_asked_ = false;
  int64_t failed_before_ = 0;                 // writes of the session that failed before the turn
  std::optional<absl::Duration> away_since_;  // when it lost the turn for the first time

  // Input for the turn that is on its way; whether nobody will say what became of it; and whether
  // it came behind the turn.
  std::optional<std::vector<int32_t>> entering_;
  bool unsure_ = false, behind_ = false;
  std::optional<int64_t> at_least_;  // tokens that a turn that was cut has left; at most all
  std::vector<std::unique_ptr<StoreClient>> forks_;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SIM_STORE_CLIENT_H_
