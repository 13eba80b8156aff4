#include "tests/sim/sim_world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/engine/retry_hint.h"
#include "tests/sim/sim_check.h"

namespace gma::testing {
namespace {

// Sizes small enough that queues, pools, quotas and steps are full much of the time.
EngineOptions RandomOptions(std::mt19937_64& random) {
  const auto uniform = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  EngineOptions options;
  options.new_session_id = [&random] { return SessionId({random(), random()}); };
  options.max_sessions = static_cast<int32_t>(uniform(4, 24));
  options.max_waiting = static_cast<int32_t>(uniform(2, 24));
  options.max_sessions_per_owner = static_cast<int32_t>(uniform(3, 2 * options.max_sessions));
  options.max_batch_rows = static_cast<int32_t>(uniform(1, 12));
  options.max_step_tokens = static_cast<int32_t>(uniform(1, 32));
  options.default_ttl = absl::Seconds(uniform(20, 200));
  options.stream_capacity = static_cast<size_t>(uniform(16, 40));
  options.end_tokens = {kFakeEndToken};
  options.past.checkpoint_bytes =
      static_cast<size_t>(uniform(0, 6)) * FakeDecoder(1, 1).state_layout().row_bytes();
  options.park_memory_bytes =
      uniform(0, 30) * static_cast<int64_t>(FakeDecoder(1, 1).state_layout().row_bytes());
  options.past.checkpoint_tokens = uniform(0, 3) == 0 ? 0 : uniform(1, 40);
  options.past.rewind_tokens = uniform(0, 1) == 0 ? kRemembersAll : uniform(0, 60);
  return options;
}

}  // namespace

SimWorld::SimWorld(uint64_t seed, SimCounts& counts)
    : random_(seed),
      counts_(counts),
      options_(RandomOptions(random_)),
      decoder_(options_.max_batch_rows, options_.max_step_tokens) {
  auto engine = Engine::Create(options_, decoder_, FakeTokenText, clock_, *metrics_);
  SIM_EXPECT(engine.ok(), engine.status().ToString());
  engine_ = *std::move(engine);
  decoder_.set_on_step(
      [this](const StepBatch&) { clock_.Advance(absl::Microseconds(Uniform(100, 3000))); });
}

void SimWorld::Event() {
  const int64_t what = Uniform(0, 99);
  if (what < 44) {
    Tick();
  } else if (what < 50) {
    StartPrivate();
  } else if (what < 62) {
    StartOnSession();
  } else if (what < 67) {
    StartAppend();
  } else if (what < 71) {
    OpenSession();
  } else if (what < 73) {
    CloseSession();
  } else if (what < 76) {
    AskAboutSession();
  } else if (what < 79) {
    CancelStream();
  } else if (what < 83) {
    GrantCredit();
  } else if (what < 89) {
    ReadSomeStream();
  } else if (what < 91) {
    PassTime();
  } else if (what < 92) {
    MoveSession();
  } else if (what < 94) {
    ForkSession();
  } else if (what < 96) {
    KeepCheckpoint();
  } else if (what < 99) {
    RewindSession();
  } else {
    InjectFault();
  }
  CheckInvariants();
}

void SimWorld::Tick() {
  const absl::Duration seen = now();  // what the engine goes by: a step moves the clock
  engine_->Tick();
  const int64_t steps = decoder_.steps();
  const int64_t step_rows = std::min(options_.max_batch_rows, options_.max_step_tokens);
  // As the scheduler promises, with every row runnable; and the step that brings the token.
  const int64_t wait_bound = (options_.max_sessions + step_rows - 1) / step_rows + 1 + 1;
  for (const auto& stream : streams_) {
    if (stream->eager()) stream->Read(now(), steps);
  }
  for (const auto& stream : streams_) stream->CheckPromises(seen, steps, wait_bound);
  SIM_EXPECT(calls_open_ == 0 || !sessions_.empty(), "a session call without a session");
  ForgetEnded();
}

std::vector<int32_t> SimWorld::RandomTokens(int64_t most) {
  std::vector<int32_t> tokens(static_cast<size_t>(Uniform(1, most)));
  for (int32_t& token : tokens) token = static_cast<int32_t>(Uniform(0, kFakeVocab - 1));
  return tokens;
}

std::string SimWorld::RandomOwner() { return absl::StrCat("owner", Uniform(0, 3)); }

SimStream* SimWorld::RandomLiveStream() {
  if (streams_.empty()) return nullptr;
  return streams_[static_cast<size_t>(Uniform(0, static_cast<int64_t>(streams_.size()) - 1))].get();
}

std::shared_ptr<SimSession> SimWorld::RandomSession() {
  if (sessions_.empty()) return nullptr;
  auto session =
      sessions_[static_cast<size_t>(Uniform(0, static_cast<int64_t>(sessions_.size()) - 1))];
  // One that was closed is asked for now and then, to hear that it is gone.
  if (session->close_asked && Chance(70)) return nullptr;
  return session->id ? session : nullptr;
}

GenerateSpec SimWorld::RandomSpec() {
  GenerateSpec spec;
  spec.input.tokens = RandomTokens(Chance(20) ? 80 : 12);
  spec.sampling.temperature = Chance(50) ? 0 : 1;
  if (Chance(30)) spec.sampling.top_k = static_cast<int32_t>(Uniform(1, 20));
  if (Chance(20)) spec.sampling.repetition_penalty = 1.2;
  spec.sampling.seed = random_();
  spec.stop.max_tokens = Uniform(1, Chance(20) ? 60 : 12);
  spec.stop.min_tokens = Chance(20) ? Uniform(0, spec.stop.max_tokens) : 0;
  spec.stop.ignore_eos = Chance(50);
  if (Chance(20)) spec.stop.stop_tokens = {static_cast<int32_t>(Uniform(1, kFakeVocab - 1))};
  if (Chance(20)) {
    std::string stop(1, static_cast<char>('a' + Uniform(0, 25)));
    if (Chance(50)) stop += static_cast<char>('a' + Uniform(0, 25));
    spec.stop.stop_strings = {std::move(stop)};
  }
  spec.priority = static_cast<int32_t>(Uniform(-10, 10));
  if (Chance(25)) spec.deadline = now() + absl::Milliseconds(Uniform(0, 60));
  if (Chance(30)) spec.initial_credit = Uniform(0, 10);
  return spec;
}

void SimWorld::Start(GenerateSpec spec, std::shared_ptr<SimSession> session) {
  const bool eager = spec.initial_credit == TokenStream::kUnlimitedCredit && Chance(80);
  auto stream = engine_->Generate(spec, nullptr);
  if (!stream.ok()) {
    const absl::StatusCode expected =
        draining_ ? absl::StatusCode::kUnavailable : absl::StatusCode::kResourceExhausted;
    SIM_EXPECT(stream.status().code() == expected, stream.status().ToString());
    SIM_EXPECT(draining_ || RetryAfterMs(stream.status()), "refused without a retry hint");
    SIM_EXPECT(draining_ || engine_->GetStatus().requests_waiting >= options_.max_waiting,
               "refused although the queue has room");
    return;
  }
  ++counts_.streams;
  streams_.push_back(std::make_unique<SimStream>(*std::move(stream), spec, std::move(session),
                                                 eager, decoder_.steps()));
}

void SimWorld::StartPrivate() {
  GenerateSpec spec = RandomSpec();
  spec.owner = RandomOwner();
  if (Chance(20)) spec.n = static_cast<int32_t>(Uniform(2, 4));
  Start(std::move(spec), nullptr);
}

void SimWorld::StartOnSession() {
  std::shared_ptr<SimSession> session = RandomSession();
  if (session == nullptr) return;
  GenerateSpec spec = RandomSpec();
  spec.owner = session->owner;
  spec.session = session->id;
  spec.wait_if_busy = Chance(50);
  if (Chance(25)) spec.input.tokens.clear();
  if (!spec.input.tokens.empty() && Chance(50)) {
    // Now and then the answer has drawn a part of this itself.
    spec.input.close_tokens = RandomTokens(3);
    const std::vector<int32_t>& answer = session->possible.front().answer;
    if (!answer.empty() && Chance(70)) spec.input.close_tokens.front() = answer.back();
  }
  Start(std::move(spec), session);
}

void SimWorld::StartAppend() {
  std::shared_ptr<SimSession> session = RandomSession();
  if (session == nullptr) return;
  AppendSpec spec{.owner = session->owner, .session = *session->id, .input = {}};
  spec.input.tokens = RandomTokens(Chance(20) ? 60 : 6);
  if (Chance(50)) spec.input.close_tokens = RandomTokens(3);
  spec.wait_if_busy = Chance(50);
  if (Chance(25)) spec.deadline = now() + absl::Milliseconds(Uniform(0, 60));
  auto turn = std::make_shared<SeenTurn>();
  turn->generates = false;
  turn->close = spec.input.close_tokens;
  turn->input = spec.input.tokens;
  session->turns.push_back(turn);
  ++calls_open_;
  ++counts_.appends;
  engine_->Append(std::move(spec), [this, session, turn](auto info) {
    --calls_open_;
    SIM_EXPECT(!turn->status, "an Append answered twice");
    turn->status = info.status();
    if (info.ok()) turn->context_tokens = info->context_tokens;
    session->Resolve();
  });
}

void SimWorld::OpenSession() {
  auto session = std::make_shared<SimSession>();
  session->owner = RandomOwner();
  session->ttl = Chance(50) ? absl::Seconds(Uniform(1, 100)) : options_.default_ttl;
  session->opened_at = now();
  ++calls_open_;
  engine_->Open({.owner = session->owner, .ttl = session->ttl}, [this, session](auto info) {
    --calls_open_;
    if (info.ok()) {
      session->id = info->id;
      ++counts_.sessions;
      return;
    }
    session->refused = true;
    SIM_EXPECT(info.status().code() == absl::StatusCode::kResourceExhausted || draining_,
               info.status().ToString());
  });
  sessions_.push_back(std::move(session));
}

void SimWorld::CloseSession() {
  std::shared_ptr<SimSession> session = RandomSession();
  if (session == nullptr) return;
  session->close_asked = true;
  ++calls_open_;
  engine_->Close(session->owner, *session->id, [this, session](auto info) {
    --calls_open_;
    session->ended = true;
  });
}

void SimWorld::AskAboutSession() {
  std::shared_ptr<SimSession> session = RandomSession();
  if (session == nullptr) return;
  const bool foreign = Chance(20);
  ++calls_open_;
  engine_->Get(
      foreign ? "stranger" : session->owner, *session->id, [this, session, foreign](auto info) {
        --calls_open_;
        if (foreign) {
          SIM_EXPECT(absl::StrContains(info.status().message(), "unknown"),
                     "a stranger learns of a session");
          return;
        }
        if (!info.ok()) {
          if (absl::StrContains(info.status().message(), "expired")) ++counts_.expired;
          session->ended = true;
          return;
        }
        if (info->phase != SessionPhase::kIdle || !session->turns.empty()) return;
        if (session->unfollowed) return;
        // Nothing is on its way: what the session holds is known, up to cuts.
        std::erase_if(session->possible, [&](const History& history) {
          return history.state.position + (history.pending ? 1 : 0) != info->context_tokens;
        });
        SIM_EXPECT(!session->possible.empty(), "a session of another length");
      });
}

void SimWorld::CancelStream() {
  SimStream* stream = RandomLiveStream();
  if (stream == nullptr) return;
  engine_->Cancel(stream->stream(), /*by_client=*/Chance(50));
  stream->set_cancelled();
}

void SimWorld::GrantCredit() {
  if (SimStream* stream = RandomLiveStream()) engine_->AddCredit(stream->stream(), Uniform(1, 20));
}

void SimWorld::ReadSomeStream() {
  if (SimStream* stream = RandomLiveStream()) stream->Read(now(), decoder_.steps());
}

void SimWorld::PassTime() {
  clock_.Advance(Chance(4) ? absl::Seconds(Uniform(1, 60)) : absl::Milliseconds(Uniform(1, 20)));
}

void SimWorld::InjectFault() {
  if (Chance(50)) return;
  if (Chance(40)) {
    decoder_.FailNextStep();
    ++faults_injected_;
  } else if (!decoder_.last_rows().empty()) {
    const auto& rows = decoder_.last_rows();
    decoder_.NanForRow(
        rows[static_cast<size_t>(Uniform(0, static_cast<int64_t>(rows.size()) - 1))]);
    ++nans_injected_;
  }
}

void SimWorld::ForgetEnded() {
  std::erase_if(streams_, [&](const std::unique_ptr<SimStream>& stream) {
    if (!stream->ended()) return false;
    ++counts_.ends[absl::StatusCodeToString(stream->status().code())];
    return true;
  });
  std::erase_if(sessions_, [&](const std::shared_ptr<SimSession>& session) {
    session->Resolve();  // turns that it shares with the session it was forked from
    if (session->possible.size() > 1) ++counts_.ambiguous;
    return session->refused || (session->ended && session->turns.empty());
  });
}

void SimWorld::CheckInvariants() {
  engine_->CheckOwnership();
  const EngineStatus status = engine_->GetStatus();
  SIM_EXPECT(status.rows_used >= 0 && status.rows_used <= options_.max_sessions, "rows in use");
  SIM_EXPECT(status.requests_waiting >= 0 && status.requests_waiting <= options_.max_waiting,
             "waiting requests beyond the limit");
  SIM_EXPECT(metrics_->state_rows[RowUseLabel::kSession]->Value() +
                     metrics_->state_rows[RowUseLabel::kPrivate]->Value() +
                     metrics_->state_rows[RowUseLabel::kFree]->Value() ==
                 options_.max_sessions,
             "state rows do not add up");
  SIM_EXPECT(
      metrics_->session_checkpoint_bytes->Value() + metrics_->session_parked_bytes->Value() <=
          static_cast<double>(options_.park_memory_bytes),
      "parked rows and checkpoints beyond the limit");
  SIM_EXPECT(metrics_->state_nonfinite->Value() <= static_cast<double>(nans_injected_),
             "more non-finite answers than injected");
  SIM_EXPECT(metrics_->step_failures->Value() <= static_cast<double>(faults_injected_),
             "more failed steps than injected");
}

void SimWorld::End() {
  const bool drain = Chance(70);
  draining_ = true;
  if (drain) {
    engine_->BeginDrain();
    StartPrivate();  // refused
    // Every reader comes back, so everything that runs reaches its end.
    for (int round = 0; !(engine_->Drained() && calls_open_ == 0); ++round) {
      SIM_EXPECT(round < 100'000, "the drain does not end");
      for (const auto& stream : streams_) engine_->AddCredit(stream->stream(), 1000);
      engine_->Tick();
      for (const auto& stream : streams_) stream->Read(now(), decoder_.steps());
      CheckInvariants();
    }
  } else {
    engine_->Shutdown();
  }
  for (const auto& stream : streams_) {
    stream->Read(now(), decoder_.steps());
    SIM_EXPECT(stream->ended(), "a request never ended");
  }
  SIM_EXPECT(calls_open_ == 0, "a session call was never answered");
  ForgetEnded();
  if (drain) {
    // Sessions outlive a drain; closed or expired, they give every row back.
    if (Chance(50)) {
      clock_.Advance(absl::Seconds(300));  // longer than any ttl
    } else {
      for (const auto& session : sessions_) {
        if (session->id) engine_->Close(session->owner, *session->id, [](auto) {});
      }
    }
    engine_->Tick();
    CheckInvariants();
    SIM_EXPECT(engine_->GetStatus().rows_used == 0, "rows in use after everything has ended");
    SIM_EXPECT(metrics_->session_checkpoint_bytes->Value() == 0, "checkpoints of no session");
  }
  counts_.steps += decoder_.steps();
  counts_.tokens += decoder_.tokens_fed();
}

}  // namespace gma::testing
