// Forks, checkpoints, rewinds and moves of the simulation.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_world.h"

namespace gma::testing {

std::shared_ptr<SimSession> SimWorld::CopyOf(const SimSession& source) {
  auto copy = std::make_shared<SimSession>();
  copy->owner = source.owner;
  copy->ttl = source.ttl;
  // A copy is made while no turn is active, so when it is, all turns posted before have ended;
  // what came of some may still have to be read.
  copy->possible = source.possible;
  copy->unfollowed = source.unfollowed;
  copy->turns = source.turns;
  copy->returned = source.returned;
  return copy;
}

void SimWorld::ForkSession() {
  std::shared_ptr<SimSession> source = RandomSession();
  if (source == nullptr) return;
  std::shared_ptr<SimSession> fork = CopyOf(*source);
  ++calls_open_;
  engine_->Fork(fork->owner, *source->id, [this, source, fork](auto info) {
    --calls_open_;
    if (!info.ok()) return CheckRefusal(*source, info.status());
    ++counts_.forks;
    SIM_EXPECT(info->ttl == fork->ttl && info->id != *source->id, "a fork of another session");
    fork->id = info->id;
    fork->opened_at = now();
    sessions_.push_back(fork);
  });
}

void SimWorld::MoveSession() {
  std::shared_ptr<SimSession> source = RandomSession();
  if (source == nullptr) return;
  std::shared_ptr<SimSession> copy = CopyOf(*source);
  copy->returned = true;  // nothing of its past comes with it
  auto move = std::make_shared<SeenTurn>();
  move->moved = true;
  copy->turns.push_back(move);
  ++calls_open_;
  engine_->Export(copy->owner, *source->id, [this, source, copy, move](auto image) {
    --calls_open_;
    if (!image.ok()) return CheckRefusal(*source, image.status());
    SIM_EXPECT(image->ttl == copy->ttl, "an image of another session");
    ++calls_open_;
    const int64_t tokens = image->point.context_tokens();
    engine_->Import(copy->owner, *std::move(image), [this, copy, move, tokens](auto info) {
      --calls_open_;
      if (!info.ok()) return CheckRefusal(*copy, info.status());
      ++counts_.moves;
      SIM_EXPECT(info->context_tokens == tokens, "an import of another image");
      move->status = absl::OkStatus();
      copy->id = info->id;
      copy->opened_at = now();
      sessions_.push_back(copy);
    });
  });
}

void SimWorld::KeepCheckpoint() {
  std::shared_ptr<SimSession> session = RandomSession();
  if (session == nullptr) return;
  ++calls_open_;
  if (Chance(30)) {  // a number, which may drive others out
    engine_->Checkpoint(session->owner, *session->id, "", [this, session](auto info) {
      --calls_open_;
      if (!info.ok()) CheckRefusal(*session, info.status());
    });
    return;
  }
  auto turn = std::make_shared<SeenTurn>();
  turn->checkpoint = RandomName(Uniform(0, 2));
  session->turns.push_back(turn);
  engine_->Checkpoint(session->owner, *session->id, *turn->checkpoint,
                      [this, session, turn](auto info) {
                        --calls_open_;
                        turn->status = info.status();
                        if (info.ok()) turn->context_tokens = info->context_tokens;
                        if (!info.ok()) CheckRefusal(*session, info.status());
                        counts_.checkpoints += info.ok() ? 1 : 0;
                        session->Resolve();
                      });
}

void SimWorld::RewindSession() {
  std::shared_ptr<SimSession> session = RandomSession();
  if (session == nullptr) return;
  auto turn = std::make_shared<SeenTurn>();
  if (Chance(25)) {
    turn->rewind = RandomName(Uniform(0, 2));
    session->returned = true;
  } else {
    const int64_t context = session->possible.front().context();
    turn->rewind = Uniform(Chance(50) ? std::max<int64_t>(0, context - 20) : 0, context + 1);
  }
  turn->remembers_all = options_.past.rewind_tokens == kRemembersAll && !session->returned;
  session->turns.push_back(turn);
  ++calls_open_;
  engine_->Rewind({.owner = session->owner, .session = *session->id, .target = *turn->rewind},
                  [this, session, turn](auto info) {
                    --calls_open_;
                    SIM_EXPECT(!turn->status, "a Rewind answered twice");
                    turn->status = info.status();
                    if (info.ok()) turn->context_tokens = info->context_tokens;
                    if (!info.ok()) CheckRefusal(*session, info.status());
                    counts_.rewinds += info.ok() ? 1 : 0;
                    session->Resolve();
                  });
}

void SimWorld::CheckRefusal(SimSession& session, const absl::Status& status) {
  const bool gone = status.code() == absl::StatusCode::kNotFound &&
                    !absl::StrContains(status.message(), "no checkpoint");
  if (gone) session.ended = true;
  if (status.code() == absl::StatusCode::kOutOfRange) ++counts_.out_of_reach;
  const bool known = status.code() == absl::StatusCode::kNotFound ||
                     status.code() == absl::StatusCode::kDataLoss ||
                     status.code() == absl::StatusCode::kFailedPrecondition ||
                     status.code() == absl::StatusCode::kResourceExhausted ||
                     status.code() == absl::StatusCode::kOutOfRange ||
                     status.code() == absl::StatusCode::kCancelled ||
                     status.code() == absl::StatusCode::kUnavailable;
  SIM_EXPECT(known, status.ToString());
}

}  // namespace gma::testing
