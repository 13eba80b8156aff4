#include "tests/soak/soak_run.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "model/checkpoint/model_dir.h"

namespace gma::soak {
namespace {

constexpr int64_t kWindow = 10'000;          // tokens at each end whose times are told
constexpr int32_t kContinuation = 64;        // tokens drawn at the end
constexpr int32_t kTopLogprobs = 20;         // beside each of them
constexpr int64_t kParkedRows = 12;          // in memory, checkpoints included
constexpr int64_t kRememberedTokens = 4096;  // --rewind_tokens: soon as many as ever
constexpr int64_t kSnapshotTokens = 4096;
// What a process may hold more at the end than after the first tenth, beside nothing at all: what
// its allocator keeps.
constexpr double kResidentSlack = 0.02;
constexpr int64_t kResidentSlackBytes = 4 << 20;

std::vector<std::string> Joined(std::vector<std::string> flags,
                                const std::vector<std::string>& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

int64_t BytesOfFiles(const std::string& folder) {
  int64_t bytes = 0;
  std::error_code gone;  // files come and go
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, gone)) {
    const auto size = entry.is_regular_file(gone) ? entry.file_size(gone) : 0;
    if (!gone) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

absl::Status Compare(const Outcome& disturbed, const Outcome& plain, int64_t context) {
  for (size_t i = 0; i < plain.drawn.size(); ++i) {
    if (i < disturbed.drawn.size() && disturbed.drawn[i] == plain.drawn[i]) continue;
    return absl::DataLossError(absl::StrCat("an answer differs at its token ", i,
                                            "; the turn began behind ", context, " tokens"));
  }
  return absl::OkStatus();
}

}  // namespace

void TokenTimes::Add(const Turn& turn, const Outcome& outcome) {
  if (turn.kind == Turn::Kind::kAppend) {
    appended += turn.tokens();
    append_seconds += outcome.append_seconds;
  } else if (outcome.decode_seconds > 0 && turn.kind != Turn::Kind::kDuplex) {
    drawn += turn.answer - 1;  // from the first to the last
    decode_seconds += outcome.decode_seconds;
  }
}

std::string TokenTimes::Line() const {
  return absl::StrFormat("%.1f us a token fed (%d), %.1f us a token drawn (%d)",
                         1e6 * append_seconds / std::max<int64_t>(appended, 1), appended,
                         1e6 * decode_seconds / std::max<int64_t>(drawn, 1), drawn);
}

absl::Status Soak::Start() {
  std::filesystem::create_directories(options_.folder);
  const std::string key = options_.folder + "/state.key", state = options_.folder + "/state";
  std::filesystem::remove_all(state);
  GMA_ASSIGN_OR_RETURN(const ModelDir model, ModelDir::Open(options_.model, {}));
  GMA_ASSIGN_OR_RETURN(StateLayout layout, StateLayout::Create(model.config(), false));
  const auto row = static_cast<int64_t>(layout.row_bytes());
  const std::vector<std::string> common =
      Joined({"--model", options_.model, "--state_key", key, "--session_ttl", "168h",
              "--prefix_bytes", "0", "--checkpoint_bytes", absl::StrCat(2 * row), "--rewind_tokens",
              absl::StrCat(kRememberedTokens)},
             options_.server_flags);
  GMA_ASSIGN_OR_RETURN(
      disturbed_,
      Subject::Start(options_.program,
                     Joined(common, {"--state_dir", state, "--max_sessions", "3",
                                     "--park_memory_bytes", absl::StrCat(kParkedRows * row),
                                     "--snapshot_tokens", absl::StrCat(kSnapshotTokens)})));
  GMA_ASSIGN_OR_RETURN(plain_, Subject::Start(options_.program, common));
  GMA_ASSIGN_OR_RETURN(const v1::ModelInfo served, plain_->client().GetModel(""));
  GMA_ASSIGN_OR_RETURN(const StateKey state_key, StateKey::LoadOrMake(key));
  scope_.reset(new SnapshotScope{.key = state_key,
                                 .fingerprint = served.fingerprint(),
                                 .layout = std::move(layout),
                                 .vocab_size = served.vocab_size()});
  TurnOptions turns = options_.turns;
  turns.vocab_size = served.vocab_size();
  turns_ = std::make_unique<Turns>(std::move(turns));
  start_ = absl::Now();
  return absl::OkStatus();
}

int64_t Soak::NextDisturbanceAt() const {
  // None in the first and the last eighth of a round.
  const int64_t round = options_.tokens / options_.rounds;
  const auto in_round = static_cast<int64_t>(disturbances_ % kNames.size());
  if (rounds_done() == options_.rounds) return INT64_MAX;
  return rounds_done() * round + round * (2 * in_round + 3) / 16;
}

int64_t Soak::window() const { return std::min(kWindow, options_.tokens / 4); }

void Soak::AddTimes(int side, const Turn& turn, const Outcome& outcome, int64_t context) {
  if (context + turn.tokens() <= window()) {
    first_[side].Add(turn, outcome);
  } else if (context >= options_.tokens - window()) {
    last_[side].Add(turn, outcome);
  }
}

absl::Status Soak::Take(Turn turn, const std::function<absl::Status()>& meanwhile, bool timed) {
  GMA_ASSIGN_OR_RETURN(Outcome outcome, disturbed_->Take(turn, meanwhile));
  if (timed) AddTimes(0, turn, outcome, context_);
  return Taken(std::move(turn), std::move(outcome), timed);
}

absl::Status Soak::Taken(Turn turn, Outcome outcome, bool timed) {
  context_ += turn.tokens();
  due_.push_back({std::move(turn), std::move(outcome), timed});
  return options_.apart ? absl::OkStatus() : TakeUndisturbed();
}

absl::Status Soak::TakeUndisturbed() {
  for (; !due_.empty(); due_.pop_front()) {
    const Due& due = due_.front();
    GMA_ASSIGN_OR_RETURN(const Outcome outcome,
                         plain_->TakeApart(due.turn, due.outcome.drawn_before));
    GMA_RETURN_IF_ERROR(Compare(due.outcome, outcome, plain_context_));
    if (due.timed) AddTimes(1, due.turn, outcome, plain_context_);
    plain_context_ += due.turn.tokens();
    if (options_.apart) Show("undisturbed: ", plain_context_);
    if (10 * plain_context_ < options_.tokens) continue;
    const int64_t resident = plain_->server().ResidentBytes();
    if (resident_base_ == 0) resident_base_ = resident;
    resident_most_ = std::max(resident_most_, resident);
  }
  return absl::OkStatus();
}

absl::Status Soak::KillAndStart() {
  disturbed_->server().Kill();
  return disturbed_->server().StartAgain();
}

absl::StatusOr<Outcome> Soak::AppendAndKill(const Turn& turn) {
  absl::Status started;
  std::thread killer([&] {
    absl::SleepFor(absl::Milliseconds(context_ % 16));
    started = KillAndStart();
  });
  absl::StatusOr<Outcome> outcome = disturbed_->Append(turn.input);
  killer.join();
  if (!started.ok()) return started;
  return outcome;
}

absl::Status Soak::Fork() {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo fork,
                       disturbed_->client().ForkSession(disturbed_->session()));
  Turn turn = turns_->Long(Turn::Kind::kGreedy);
  GMA_ASSIGN_OR_RETURN(const Outcome of_fork, disturbed_->Answer(fork.session_id(), turn, 0));
  GMA_RETURN_IF_ERROR(disturbed_->client().CloseSession(fork.session_id()).status());
  GMA_ASSIGN_OR_RETURN(Outcome outcome, disturbed_->Take(turn, nullptr));
  GMA_RETURN_IF_ERROR(Compare(of_fork, outcome, context_));
  return Taken(std::move(turn), std::move(outcome), /*timed=*/false);
}

absl::Status Soak::Disturb(Disturbance disturbance) {
  const absl::Time start = absl::Now();
  const int64_t context = context_;
  switch (disturbance) {
    case Disturbance::kFork:
      GMA_RETURN_IF_ERROR(Fork());
      break;
    case Disturbance::kParkMemory:
      GMA_RETURN_IF_ERROR(disturbed_->Park(v1::SESSION_TIER_MEMORY));
      break;
    case Disturbance::kParkDisk:
      GMA_RETURN_IF_ERROR(disturbed_->Park(v1::SESSION_TIER_DISK));
      break;
    case Disturbance::kStop:
      GMA_RETURN_IF_ERROR(disturbed_->server().Stop());
      GMA_RETURN_IF_ERROR(disturbed_->server().StartAgain());
      break;
    case Disturbance::kKillAnswer:
      GMA_RETURN_IF_ERROR(Take(
          turns_->Long(Turn::Kind::kSampled), [this] { return KillAndStart(); }, /*timed=*/false));
      break;
    case Disturbance::kKillAppend:
      Turn turn = turns_->Long(Turn::Kind::kAppend);
      GMA_ASSIGN_OR_RETURN(Outcome outcome, AppendAndKill(turn));
      GMA_RETURN_IF_ERROR(Taken(std::move(turn), std::move(outcome), /*timed=*/false));
      break;
  }
  // The next turn is the same on both sides, or Compare tells.
  GMA_RETURN_IF_ERROR(Take(turns_->Long(Turn::Kind::kGreedy), nullptr, /*timed=*/false));
  told_(absl::StrFormat("%s at %d tokens: %s", kNames[static_cast<size_t>(disturbance)], context,
                        absl::FormatDuration(absl::Now() - start)));
  return absl::OkStatus();
}

void Soak::Show(const char* who, int64_t context) const {
  progress_(absl::StrFormat("%s%d of %d tokens, %.0f s", who, context, options_.tokens,
                            absl::ToDoubleSeconds(absl::Now() - start_)));
}

absl::Status Soak::Sample() {
  Show("", context_);
  if (context_ < next_sample_) return absl::OkStatus();
  next_sample_ = context_ + options_.tokens / 40;
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, disturbed_->Info());
  if (state_bytes_ == 0) state_bytes_ = info.state_bytes();
  if (info.context_tokens() != context_ || info.state_bytes() != state_bytes_) {
    return absl::DataLossError(absl::StrCat("the session tells of ", info.context_tokens(),
                                            " tokens in ", info.state_bytes(), " bytes; they are ",
                                            context_, " in ", state_bytes_));
  }
  checkpoint_bytes_ = std::max(checkpoint_bytes_, info.checkpoint_bytes());
  disk_most_ = std::max(disk_most_, BytesOfFiles(options_.folder + "/state"));
  return absl::OkStatus();
}

absl::StatusOr<SessionImage> Soak::ImageOf(Subject& subject, bool leave) {
  GMA_ASSIGN_OR_RETURN(const std::string blob, subject.client().ExportSession(subject.session()));
  if (leave) std::ofstream(options_.folder + "/session.gma", std::ios::binary) << blob;
  return OpenSnapshot(*scope_, "local", std::nullopt, blob);
}

absl::Status Soak::CheckEnd() {
  GMA_ASSIGN_OR_RETURN(SessionImage disturbed, ImageOf(*disturbed_, /*leave=*/true));
  GMA_RETURN_IF_ERROR(TakeUndisturbed());
  Turn turn = turns_->Long(Turn::Kind::kGreedy);
  turn.answer = kContinuation;
  for (const bool continued : {false, true}) {
    if (continued) {
      GMA_ASSIGN_OR_RETURN(const Outcome there,
                           disturbed_->Answer(disturbed_->session(), turn, kTopLogprobs));
      GMA_ASSIGN_OR_RETURN(const Outcome here,
                           plain_->Answer(plain_->session(), turn, kTopLogprobs));
      GMA_RETURN_IF_ERROR(Compare(there, here, context_));
      GMA_ASSIGN_OR_RETURN(disturbed, ImageOf(*disturbed_, /*leave=*/false));
    }
    GMA_ASSIGN_OR_RETURN(const SessionImage plain, ImageOf(*plain_, /*leave=*/false));
    if (disturbed.row != plain.row || disturbed.point.fed != plain.point.fed ||
        disturbed.point.pending != plain.point.pending) {
      return absl::DataLossError(
          absl::StrCat("the state rows differ after ", plain.point.fed, " tokens"));
    }
  }
  return CheckBytes();
}

absl::Status Soak::CheckBytes() const {
  const int64_t row = state_bytes_;
  if (checkpoint_bytes_ > 2 * row) {
    return absl::InternalError(absl::StrCat("checkpoints took ", checkpoint_bytes_, " bytes"));
  }
  const auto allowed = static_cast<int64_t>(static_cast<double>(resident_base_) * kResidentSlack);
  if (resident_most_ > resident_base_ + allowed + kResidentSlackBytes) {
    return absl::InternalError(absl::StrCat("the process grew from ", resident_base_, " to ",
                                            resident_most_, " resident bytes"));
  }
  // A snapshot, and a journal that begins anew after each.
  const int64_t journal = kSnapshotTokens + 2 * options_.turns.append_tokens;
  if (disk_most_ > 2 * row + 8 * (kRememberedTokens + 2 * journal) + (64 << 10)) {
    return absl::InternalError(absl::StrCat("the store took ", disk_most_, " bytes"));
  }
  return absl::OkStatus();
}

void Soak::ShowTimes() const {
  told_(absl::StrFormat("first %d tokens: %s; undisturbed: %s", window(), first_[0].Line(),
                        first_[1].Line()));
  told_(absl::StrFormat("last %d tokens: %s; undisturbed: %s", window(), last_[0].Line(),
                        last_[1].Line()));
  told_(
      absl::StrFormat("bytes: state row %d, checkpoints %d at most, store %d at most, process "
                      "(undisturbed) %d after a tenth and %d at most since",
                      state_bytes_, checkpoint_bytes_, disk_most_, resident_base_, resident_most_));
}

absl::Status Soak::Run() {
  GMA_RETURN_IF_ERROR(Start());
  GMA_RETURN_IF_ERROR(Take(turns_->Long(Turn::Kind::kAppend), nullptr, /*timed=*/false));
  while (context_ < options_.tokens) {
    GMA_RETURN_IF_ERROR(Sample());
    if (context_ >= NextDisturbanceAt()) {
      GMA_RETURN_IF_ERROR(Disturb(static_cast<Disturbance>(disturbances_ % kNames.size())));
      ++disturbances_;
      continue;
    }
    GMA_RETURN_IF_ERROR(Take(turns_->Next(options_.tokens - context_), nullptr, true));
  }
  GMA_RETURN_IF_ERROR(Sample());
  if (rounds_done() != options_.rounds) {
    return absl::InternalError(absl::StrCat("only ", disturbances_, " disturbances took place"));
  }
  GMA_RETURN_IF_ERROR(CheckEnd());
  ShowTimes();
  told_(absl::StrFormat("%d tokens, %d disturbances: the same bytes as without them", context_,
                        disturbances_));
  return absl::OkStatus();
}

}  // namespace gma::soak
