#include "tests/sim/store_client.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "tests/sim/sim_check.h"

namespace gma::testing {

std::vector<int32_t> StoreClient::RandomTokens(int64_t most) {
  std::vector<int32_t> tokens(static_cast<size_t>(Uniform(1, most)));
  for (int32_t& token : tokens) token = static_cast<int32_t>(Uniform(0, kFakeVocab - 1));
  return tokens;
}

void StoreClient::Act(Engine& engine) {
  if (over_) return;
  if (op_ == Op::kNone) Begin();
  const bool on_its_way = stream_ != nullptr || (call_ != nullptr && *call_);
  if (!on_its_way) return Call(engine);
  if (stream_ == nullptr) return;
  const int64_t what = Uniform(1, 100);
  if (what <= 80) {
    Read();
  } else if (what <= 88 && turn_ && started_ && !entering_ && !unsure_) {
    SendInput(engine);
  } else if (what <= 93) {
    engine.Cancel(stream_, /*by_client=*/true);
    cancel_asked_ = true;
  } else if (what <= 97) {
    engine.Cancel(Disconnect(), /*by_client=*/false);  // a cut, which the server notices
  }
}

std::shared_ptr<TokenStream> StoreClient::Disconnect() {
  if (call_ != nullptr) *call_ = false;
  call_ = nullptr;
  if (entering_ && !behind_) unsure_ = true;
  if (op_ == Op::kGenerate && !turn_) Settle();
  if (!away_since_) away_since_ = clock_.Monotonic();
  return std::exchange(stream_, nullptr);
}

void StoreClient::Begin() {
  key_ = absl::StrCat("key", ++keys_);
  tries_ = 0;
  const int64_t what = Uniform(1, 100);
  const auto context = static_cast<int64_t>(model_.tokens.size());
  if (!id_) {
    op_ = Op::kOpen;
  } else if (what <= 55) {
    BeginGenerate();
  } else if (what <= 75) {
    op_ = Op::kAppend;
    input_ = RandomTokens(8);
  } else if (what <= 85 && context > 0) {
    op_ = Op::kRewind;
    target_ = Uniform(std::max<int64_t>(0, context - 40), context);
  } else if (what <= 88) {
    op_ = Op::kCheckpoint;
  } else if (what <= 91) {
    op_ = Op::kFork;
  } else if (what <= 98) {
    op_ = Op::kGet;
  } else {
    op_ = Op::kClose;
  }
}

void StoreClient::BeginGenerate() {
  op_ = Op::kGenerate;
  spec_ = {};
  spec_.owner = owner_;
  spec_.session = id_;
  spec_.input.tokens = RandomTokens(Chance(20) ? 40 : 8);
  spec_.sampling.temperature = Chance(50) ? 0 : 1;
  spec_.sampling.seed = random_();
  if (Chance(20)) spec_.sampling.repetition_penalty = 1.2;
  spec_.stop.max_tokens = Uniform(1, Chance(20) ? 60 : 15);
  spec_.stop.ignore_eos = Chance(50);
  if (Chance(20))
    spec_.stop.stop_strings = {std::string(1, static_cast<char>('a' + Uniform(0, 25)))};
  spec_.request_key = key_;
  turn_.emplace(model_, spec_.input.tokens, spec_.sampling, spec_.stop);
  seen_ = model_.last;
  started_ = cancel_asked_ = behind_ = unsure_ = false;
  failed_before_ = store_.FailedWrites(*id_);
  away_since_.reset();
  entering_.reset();
  ++counts_.turns;
}

template <typename T>
EngineCallback<T> StoreClient::Answer(void (StoreClient::*done)(const T&)) {
  call_ = std::make_shared<bool>(true);
  return [this, call = call_, done](const absl::StatusOr<T>& answer) {
    if (!*call) return;
    *call = false;
    answer.ok() ? (this->*done)(*answer) : OnRefused(answer.status());
  };
}

void StoreClient::Call(Engine& engine) {
  using Info = SessionSnapshotInfo;
  Trace(absl::StrCat("calls, has seen ", turn_ ? seen_ : model_.last));
  ++tries_;
  switch (op_) {
    case Op::kNone:
      return;
    case Op::kOpen:
      return engine.Open({.owner = owner_, .ttl = absl::Hours(1)},
                         Answer<Info>(&StoreClient::OnOpened));
    case Op::kGenerate:
      return CallGenerate(engine);
    case Op::kAppend: {
      AppendSpec spec{.owner = owner_, .session = *id_, .input = {.tokens = input_}};
      spec.request_key = key_;
      spec.after = model_.last;
      auto done = Answer<Info>(&StoreClient::OnAppended);
      spec.abandoned = [call = call_] { return !*call; };
      return engine.Append(std::move(spec), std::move(done));
    }
    case Op::kRewind: {
      RewindSpec spec{.owner = owner_, .session = *id_, .target = target_};
      spec.after = model_.last;
      auto done = Answer<Info>(&StoreClient::OnRewound);
      spec.abandoned = [call = call_] { return !*call; };
      return engine.Rewind(std::move(spec), std::move(done));
    }
    case Op::kCheckpoint:
      return engine.Checkpoint(owner_, *id_, "kept",
                               Answer<CheckpointInfo>(&StoreClient::OnCheckpoint));
    case Op::kFork:
      return engine.Fork(owner_, *id_, Answer<Info>(&StoreClient::OnForked));
    case Op::kGet:
      return engine.Get(owner_, *id_, Answer<Info>(&StoreClient::OnInfo));
    case Op::kClose:
      return engine.Close(owner_, *id_, Answer<Info>(&StoreClient::OnClosed));
  }
}

void StoreClient::CallGenerate(Engine& engine) {
  if (started_) ++counts_.resumed;
  // A stream that nobody keeps by its key is gone on with by its session.
  if (started_ && Chance(30)) {
    auto stream =
        engine.Resume({.owner = owner_, .session = *id_, .after = seen_}, /*notify=*/nullptr);
    return stream.ok() ? static_cast<void>(stream_ = *stream) : OnRefused(stream.status());
  }
  spec_.after = seen_;
  auto stream = engine.Generate(spec_, /*notify=*/nullptr);
  stream.ok() ? static_cast<void>(stream_ = *stream) : OnRefused(stream.status());
}

void StoreClient::SendInput(Engine& engine) {
  entering_ = RandomTokens(4);
  Trace(absl::StrCat("input of ", entering_->size()));
  ++counts_.inputs;
  AppendSpec spec{.owner = owner_, .session = *id_, .input = {.tokens = *entering_}};
  spec.turn = stream_;
  call_ = std::make_shared<bool>(true);
  spec.abandoned = [call = call_] { return !*call; };
  engine.Append(std::move(spec), [this, call = call_](const auto& info) {
    if (*call) OnInputAnswered(info);
  });
}

void StoreClient::OnInputAnswered(const absl::StatusOr<SessionSnapshotInfo>& info) {
  *call_ = false;
  if (!entering_) return;  // its event came first
  if (!info.ok()) {
    const absl::StatusCode code = info.status().code();
    const bool refused = code == absl::StatusCode::kFailedPrecondition ||
                         code == absl::StatusCode::kResourceExhausted;
    if (refused) entering_.reset();
    unsure_ = !refused;
  } else if (!info->entered_turn) {
    behind_ = true;  // an Append of its own
  }
  if (op_ == Op::kGenerate && !turn_) Settle();
}

void StoreClient::Read() {
  if (stream_ == nullptr) return;
  std::vector<StreamEvent> events;
  const std::optional<absl::Status> closed = stream_->TakeAll(events);
  for (const StreamEvent& event : events) {
    if (over_) return;
    OnEvent(event);
  }
  if (!closed || over_) return;
  stream_ = nullptr;
  OnStreamEnd(*closed);
}

void StoreClient::OnEvent(const StreamEvent& event) {
  Trace(absl::StrCat("event ", SequenceOf(event), " of kind ", event.index()));
  const bool never_began = SequenceOf(event) == 0 && cancel_asked_ && !started_ &&
                           std::holds_alternative<FinishedEvent>(event);
  if (never_began) {
    turn_.reset();
    return Done();
  }
  if (SequenceOf(event) != seen_ + 1 || !turn_) {
    return Mismatch(Proof::kContents, absl::StrCat("event ", SequenceOf(event), " of kind ",
                                                   event.index(), " comes after event ", seen_,
                                                   turn_ ? "" : ", when no turn is left"));
  }
  ++seen_;
  durable_ = true;
  if (std::holds_alternative<StartedEvent>(event)) {
    // Where its client sees that something is wrong.
    if (started_) return Mismatch(Proof::kRefusal, "a turn starts in the middle");
    started_ = true;
    return;
  }
  const bool is_end = std::holds_alternative<FinishedEvent>(event);
  if (!is_end && turn_->reason() != FinishReason::kNone) {
    return Mismatch(Proof::kContents, "an answer goes on after its end");
  }
  if (const auto* token = std::get_if<TokenEvent>(&event)) {
    ++counts_.tokens;
    const int32_t expected = turn_->Next();
    if (token->sampled.token == expected) return;
    return Mismatch(Proof::kContents, absl::StrCat("event ", seen_, " is token ",
                                                   token->sampled.token, ", must be ", expected));
  }
  if (const auto* input = std::get_if<AppendedEvent>(&event)) {
    if (!entering_ || input->tokens != static_cast<int64_t>(entering_->size())) {
      return Mismatch(Proof::kContents, "input entered that was not sent");
    }
    turn_->Enter(*entering_);
    entering_.reset();
    unsure_ = false;
    return;
  }
  OnFinished(std::get<FinishedEvent>(event));
}

bool StoreClient::MayBeCut() const {
  // A turn that could not be written down is not gone on with by another server; nor by any when
  // its reader was away for too long.
  const bool unwritten = !store_.always && store_.FailedWrites(*id_) > failed_before_;
  const bool late = away_since_ && clock_.Monotonic() - *away_since_ >= resume_window_;
  return cancel_asked_ || unwritten || late;
}

}  // namespace gma::testing
