#include "tests/sim/store_world.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/sim/sim_check.h"

namespace gma::testing {
namespace {

constexpr int64_t kClients = 12;

}  // namespace

EngineOptions StoreWorld::RandomOptions() {
  const auto row = static_cast<int64_t>(FakeDecoder(1, 1).state_layout().row_bytes());
  EngineOptions options;
  options.new_session_id = [this] { return SessionId({random_(), random_()}); };
  options.max_sessions = static_cast<int32_t>(Uniform(2, 8));
  options.max_waiting = 100;
  options.max_sessions_per_owner = 1000;
  options.max_batch_rows = static_cast<int32_t>(Uniform(1, 8));
  options.max_step_tokens = static_cast<int32_t>(Uniform(1, 16));
  options.default_ttl = absl::Hours(1);
  options.end_tokens = {kFakeEndToken};
  options.past.checkpoint_bytes = static_cast<size_t>(Uniform(0, 3) * row);
  options.past.checkpoint_tokens = Chance(50) ? 0 : Uniform(1, 20);
  options.past.rewind_tokens = 1'000'000;
  options.prefix_bytes = Chance(50) ? 0 : static_cast<size_t>(8 * row);
  options.park_memory_bytes = Uniform(6, 16) * row;
  options.durability = Chance(60) ? Durability::kInterval : Durability::kAlways;
  options.snapshot_tokens = Uniform(0, 120);
  options.resume_window = Chance(80) ? absl::Minutes(50) : absl::Seconds(Uniform(1, 60));
  return options;
}

StoreWorld::StoreWorld(uint64_t seed, StoreWorldCounts& counts)
    : random_(seed), counts_(counts), options_(RandomOptions()), servers_(2) {
  store_.always = options_.durability == Durability::kAlways;
  fails_ = Chance(40);
  store_.lies_percent = Chance(20) ? 5 : 0;
  for (Server& server : servers_) Start(server);
  for (int64_t i = 0; i < kClients; ++i) {
    homes_.push_back({NewClient(i), static_cast<size_t>(Uniform(0, 1))});
  }
}

std::unique_ptr<StoreClient> StoreWorld::NewClient(size_t number) {
  return std::make_unique<StoreClient>(absl::StrCat("owner", number % 3), clock_,
                                       options_.resume_window, random_, store_, counts_.clients);
}

void StoreWorld::Start(Server& server) {
  server.metrics = Metrics::Create({"fake", "", "", "", ""});
  server.decoder = std::make_unique<FakeDecoder>(options_.max_batch_rows, options_.max_step_tokens);
  server.decoder->set_on_step(
      [this](const StepBatch&) { clock_.Advance(absl::Microseconds(Uniform(10, 200))); });
  auto store = std::make_unique<SimStore>(store_, random_);
  server.store = store.get();
  auto keeper =
      std::make_unique<Keeper>(KeeperOptions{.scope = {.key = key_,
                                                       .fingerprint = std::string(64, 'a'),
                                                       .layout = server.decoder->state_layout(),
                                                       .vocab_size = kFakeVocab},
                                             .encoding = options_.park_format,
                                             .threads = false},
                               std::move(store), clock_, *server.metrics);
  server.keeper = keeper.get();
  auto engine = Engine::Create(options_, *server.decoder, FakeTokenText, clock_, *server.metrics,
                               std::move(keeper));
  SIM_EXPECT(engine.ok(), engine.status().ToString());
  server.engine = *std::move(engine);
  server.frozen = false;
}

void StoreWorld::DisconnectAll(const Server& server) {
  for (Home& home : homes_) {
    if (home.server != IndexOf(server)) continue;
    std::shared_ptr<TokenStream> stream = home.client->Disconnect();
    if (stream != nullptr) servers_[home.server].abandoned.push_back(std::move(stream));
  }
}

void StoreWorld::CountMoves(const Server& server) {
  const auto moved = [&](EvictionLabel label) {
    return static_cast<int64_t>(server.metrics->session_evictions[label]->Value());
  };
  counts_.to_memory += moved(EvictionLabel::kPoolToMemory);
  counts_.to_disk += moved(EvictionLabel::kMemoryToDisk);
}

void StoreWorld::Trace(const Server& server, const char* what) const {
  if (sim_trace) SimTrace(absl::StrCat("server ", IndexOf(server), " ", what));
}

void StoreWorld::Kill(Server& server) {
  Trace(server, "is killed");
  // Of the writes that were asked for, some get there before.
  while (Chance(70) && server.keeper->StepWriter()) {
  }
  DisconnectAll(server);
  CountMoves(server);
  server.store->Die();
  server.engine.reset();
  server.abandoned.clear();
  ++counts_.kills;
  Start(server);
}

void StoreWorld::Drain(Server& server) {
  Trace(server, "drains");
  server.engine->BeginDrain();
  for (int64_t ticks = Uniform(0, 20); ticks > 0; --ticks) {
    Work(server, /*writes=*/true, /*reads=*/true);
    for (Home& home : homes_) {
      if (home.server == IndexOf(server)) home.client->Read();
    }
  }
  DisconnectAll(server);
  CountMoves(server);
  server.engine->Shutdown();
  server.engine.reset();
  server.abandoned.clear();
  ++counts_.drains;
  Start(server);
}

void StoreWorld::Freeze(Server& server) {
  if (server.frozen) return;
  server.frozen = true;
  Trace(server, "freezes");
  ++counts_.freezes;
}

void StoreWorld::Thaw(Server& server) {
  if (server.frozen) Trace(server, "thaws");
  server.frozen = false;
  for (const auto& stream : std::exchange(server.abandoned, {})) {
    server.engine->Cancel(stream, /*by_client=*/false);
  }
}

void StoreWorld::Work(Server& server, bool writes, bool reads) {
  if (server.frozen) return;
  sim_position.server = IndexOf(server);
  if (writes) server.keeper->StepWriter();
  if (reads) server.keeper->StepReader();
  server.engine->Tick();
}

void StoreWorld::ActSomeone() {
  Home& home = homes_[static_cast<size_t>(Uniform(0, static_cast<int64_t>(homes_.size()) - 1))];
  sim_position.server = home.server;
  home.client->Act(*servers_[home.server].engine);
}

void StoreWorld::MoveSomeone() {
  Home& home = homes_[static_cast<size_t>(Uniform(0, static_cast<int64_t>(homes_.size()) - 1))];
  // It goes because its server does not answer, or for no reason.
  if (!servers_[home.server].frozen && !Chance(10)) return;
  std::shared_ptr<TokenStream> stream = home.client->Disconnect();
  if (stream != nullptr) servers_[home.server].abandoned.push_back(std::move(stream));
  if (!servers_[home.server].frozen) Thaw(servers_[home.server]);
  home.server = 1 - home.server;
}

void StoreWorld::ChangeMood() {
  if (!fails_) return;
  const StoreMood moods[] = {StoreMood::kAway, StoreMood::kLosesAnswers, StoreMood::kFull};
  store_.mood = Chance(75) ? StoreMood::kWell : moods[Uniform(0, 2)];
  if (sim_trace) SimTrace(absl::StrCat("the store's mood is ", static_cast<int>(store_.mood)));
}

void StoreWorld::Event() {
  Server& server = servers_[static_cast<size_t>(Uniform(0, 1))];
  const int64_t what = Uniform(1, 1000);
  if (what <= 450) {
    Work(server, Chance(70), Chance(70));
  } else if (what <= 940) {
    ActSomeone();
  } else if (what <= 960) {
    MoveSomeone();
  } else if (what <= 970) {
    ChangeMood();
  } else if (what <= 980) {
    clock_.Advance(absl::Milliseconds(Uniform(1, 2000)));
  } else if (what <= 984) {
    Freeze(server);
  } else if (what <= 990) {
    if (server.frozen) Thaw(server);
  } else if (what <= 996) {
    Kill(server);
  } else if (what <= 998) {
    if (!server.frozen) Drain(server);
  } else {
    server.decoder->FailNextStep();
    ++counts_.steps_failed;
  }
  AddForks();
  Replace();
  for (const Server& one : servers_) Check(one);
}

void StoreWorld::AddForks() {
  for (size_t i = 0; i < homes_.size(); ++i) {
    for (auto& fork : homes_[i].client->TakeForks()) {
      homes_.push_back({std::move(fork), homes_[i].server});
    }
  }
}

void StoreWorld::Replace() {
  for (size_t i = 0; i < homes_.size(); ++i) {
    if (!homes_[i].client->over()) continue;
    homes_[i].client->Disconnect();
    graveyard_.push_back(std::exchange(homes_[i].client, NewClient(i)));
    if (homes_.size() <= kClients) continue;
    std::swap(homes_[i], homes_.back());
    homes_.pop_back();
    --i;
  }
}

void StoreWorld::Check(const Server& server) const {
  server.engine->CheckOwnership();
  const Metrics& metrics = *server.metrics;
  SIM_EXPECT(metrics.session_checkpoint_bytes->Value() + metrics.session_parked_bytes->Value() <=
                 static_cast<double>(options_.park_memory_bytes),
             "parked rows and checkpoints beyond the limit");
}

void StoreWorld::Finish() {
  store_.mood = StoreMood::kWell;
  store_.lies_percent = 0;
  for (Server& server : servers_) Thaw(server);
  const auto done = [](const Home& home) {
    return home.client->over() || home.client->concluded();
  };
  for (int round = 0; !std::all_of(homes_.begin(), homes_.end(), done); ++round) {
    SIM_EXPECT(round < 20'000, "a client never comes to its end");
    clock_.Advance(absl::Milliseconds(1));
    // Rows may be held by turns that nobody comes back to.
    if (round == 5'000) clock_.Advance(options_.resume_window + absl::Minutes(1));
    for (Home& home : homes_) home.client->Conclude(*servers_[home.server].engine);
    for (Server& server : servers_) Work(server, true, true);
    AddForks();
    for (const Server& server : servers_) Check(server);
  }
}

void StoreWorld::End() {
  Finish();
  for (const Home& home : homes_) counts_.concluded += home.client->concluded() ? 1 : 0;
  for (Home& home : homes_) home.client->Disconnect();
  // Longer than any session lives without being used.
  for (int round = 0; round < 3; ++round) {
    clock_.Advance(absl::Hours(3));
    for (Server& server : servers_) {
      for (int i = 0; i < 200; ++i) Work(server, true, true);
    }
  }
  for (Server& server : servers_) {
    Check(server);
    CountMoves(server);
    const Metrics& metrics = *server.metrics;
    SIM_EXPECT(server.engine->GetStatus().rows_used == 0, "rows in use by nobody");
    SIM_EXPECT(metrics.session_parked_bytes->Value() == 0, "parked rows of no session");
    SIM_EXPECT(metrics.session_checkpoint_bytes->Value() == 0, "checkpoints of no session");
    SIM_EXPECT(metrics.store_bytes->Value() == 0, "bytes in the store of no session");
    SIM_EXPECT(metrics.store_lag->Value() == 0, "writes of no session");
  }
  counts_.claims += store_.claims;
  counts_.writes += store_.writes;
  counts_.failures += store_.failures;
  counts_.fenced += store_.fenced;
  counts_.lies += store_.lies;
}

void StoreWorldCounts::Print() const {
  const auto n = [](int64_t count) { return static_cast<long long>(count); };
  std::printf("%lld turns, %lld tokens, %lld appends, %lld inputs, %lld rewinds, %lld forks\n",
              n(clients.turns), n(clients.tokens), n(clients.appends), n(clients.inputs),
              n(clients.rewinds), n(clients.forks));
  std::printf(
      "%lld kills, %lld freezes, %lld drains, %lld failed steps; %lld retries, %lld resumed\n",
      n(kills), n(freezes), n(drains), n(steps_failed), n(clients.retries), n(clients.resumed));
  std::printf(
      "%lld to memory, %lld to disk, %lld claims, %lld writes, %lld failed, %lld fenced, "
      "%lld lies\n",
      n(to_memory), n(to_disk), n(claims), n(writes), n(failures), n(fenced), n(lies));
  std::printf(
      "%lld whole at the end, %lld closed; not followed: %lld tainted, %lld lied to, %lld "
      "never written, %lld crossed\n",
      n(concluded), n(clients.closed), n(clients.tainted), n(clients.lied), n(clients.lost_opens),
      n(clients.crossed));
  for (const auto& [code, count] : clients.refusals) {
    std::printf("  %-20s %lld\n", code.c_str(), n(count));
  }
}

}  // namespace gma::testing
