// Servers of the simulation that share a store: they are killed, frozen, drained and started again,
// while clients go on.
#ifndef GMA_TESTS_SIM_STORE_WORLD_H_
#define GMA_TESTS_SIM_STORE_WORLD_H_

#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "server/engine/engine.h"
#include "server/engine/keeper.h"
#include "server/metrics/metrics.h"
#include "server/session/state_key.h"
#include "tests/sim/sim_store.h"
#include "tests/sim/store_client.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_decoder.h"

namespace gma::testing {

struct StoreWorldCounts {
  StoreCounts clients;
  int64_t kills = 0, freezes = 0, drains = 0, steps_failed = 0;
  int64_t to_memory = 0, to_disk = 0, concluded = 0;
  int64_t claims = 0, writes = 0, failures = 0, fenced = 0, lies = 0;

  void Print() const;
};

// The life of one store.
class StoreWorld {
 public:
  StoreWorld(uint64_t seed, StoreWorldCounts& counts);

  // One random event, then the invariants.
  void Event();
  // All is well again, and every client comes to the end of what it does and finds all of it; then
  // everything that sessions took is given back.
  void End();

 private:
  struct Server {
    std::unique_ptr<Metrics> metrics;
    std::unique_ptr<FakeDecoder> decoder;
    SimStore* store = nullptr;  // the keeper's
    Keeper* keeper = nullptr;   // the engine's
    std::unique_ptr<Engine> engine;
    bool frozen = false;
    std::vector<std::shared_ptr<TokenStream>> abandoned;  // their readers have gone elsewhere
  };
  struct Home {
    std::unique_ptr<StoreClient> client;
    size_t server;
  };

  int64_t Uniform(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int64_t percent) { return Uniform(1, 100) <= percent; }
  EngineOptions RandomOptions();

  std::unique_ptr<StoreClient> NewClient(size_t number);
  void Start(Server& server);
  void Kill(Server& server);
  void Drain(Server& server);
  void Freeze(Server& server);
  void Thaw(Server& server);
  void Work(Server& server, bool writes, bool reads);
  void ActSomeone();
  void MoveSomeone();
  void ChangeMood();
  void DisconnectAll(const Server& server);
  void AddForks();
  // Others come for clients that are over, as long as there are few.
  void Replace();
  void Check(const Server& server) const;
  void Finish();
  void CountMoves(const Server& server);
  void Trace(const Server& server, const char* what) const;
  size_t IndexOf(const Server& server) const {
    return static_cast<size_t>(&server - servers_.data());
  }

  std::mt19937_64 random_;
  StoreWorldCounts& counts_;
  FakeClock clock_;
  const StateKey key_ = StateKey::Random();
  SimStoreData store_;
  bool fails_ = false;  // the store does, now and then
  const EngineOptions options_;
  std::vector<Server> servers_;
  std::vector<Home> homes_;
  std::vector<std::unique_ptr<StoreClient>> graveyard_;  // answers to them may be on their way
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SIM_STORE_WORLD_H_
