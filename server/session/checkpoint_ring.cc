#include "server/session/checkpoint_ring.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace gma {

SavedRow::SavedRow(RowSource row, CheckpointTotals& totals)
    : SavedRow(std::make_shared<const RowBytes>(row.Copy()), totals) {}

SavedRow::SavedRow(std::shared_ptr<const RowBytes> bytes, CheckpointTotals& totals)
    : bytes_(std::move(bytes)), totals_(totals) {
  ++totals_.count;
  totals_.bytes += static_cast<int64_t>(bytes_->size());
}

SavedRow::~SavedRow() {
  --totals_.count;
  totals_.bytes -= static_cast<int64_t>(bytes_->size());
}

std::vector<CheckpointImage> CheckpointRing::Images() const {
  std::vector<CheckpointImage> images;
  for (const Checkpoint& checkpoint : checkpoints_) {
    if (checkpoint.kind == CheckpointKind::kAutomatic) continue;
    images.push_back({.kind = checkpoint.kind,
                      .name = checkpoint.name,
                      .point = checkpoint.point,
                      .shared_tokens = checkpoint.shared_tokens,
                      .row = checkpoint.row->shared()});
  }
  return images;
}

void CheckpointRing::Restore(std::vector<CheckpointImage> images, int64_t last_number) {
  GMA_CHECK(checkpoints_.empty());
  last_number_ = last_number;
  for (CheckpointImage& image : images) {
    const size_t bytes = image.row->size();
    if (bytes_ + bytes > limit_) {
      const auto victim = Victim(image.kind);
      if (victim == checkpoints_.end()) continue;
      Erase(victim);
    }
    checkpoints_.push_back({.kind = image.kind,
                            .name = std::move(image.name),
                            .point = std::move(image.point),
                            .shared_tokens = image.shared_tokens,
                            .row = std::make_shared<SavedRow>(std::move(image.row), *totals_)});
    bytes_ += bytes;
  }
}

absl::Status CheckpointRing::Drop(std::string_view name) {
  for (auto checkpoint = checkpoints_.begin(); checkpoint != checkpoints_.end(); ++checkpoint) {
    if (checkpoint->kind == CheckpointKind::kAutomatic || checkpoint->name != name) continue;
    Erase(checkpoint);
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      absl::StrCat("the session has no checkpoint \"", absl::CHexEscape(std::string(name)), "\""));
}

void CheckpointRing::DropAutomatic() {
  for (size_t i = checkpoints_.size(); i-- > 0;) {
    if (checkpoints_[i].kind == CheckpointKind::kAutomatic) {
      Erase(checkpoints_.begin() + static_cast<ptrdiff_t>(i));
    }
  }
}

absl::StatusOr<const Checkpoint*> CheckpointRing::Keep(CheckpointKind kind, std::string_view name,
                                                       const SessionPoint& point, RowSource row) {
  const auto replaced = Replaced(kind, name, row.size());
  const size_t kept = bytes_ - (replaced == checkpoints_.end() ? 0 : replaced->row->bytes().size());
  if (kept + row.size() > limit_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a checkpoint takes ", row.size(), " bytes and the session's others hold ",
                     kept, ", limit ", limit_, " bytes (--checkpoint_bytes)"));
  }
  // A row that is shared with a fork frees nothing.
  const bool frees = replaced != checkpoints_.end() && replaced->row.use_count() == 1;
  if (!frees && totals_->reserve && !totals_->reserve(row.size())) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a checkpoint takes ", row.size(),
                     " bytes, and host memory for sessions is full (--park_memory_bytes)"));
  }
  // Making room may have taken some of this ring's.
  const auto victim = Replaced(kind, name, row.size());
  if (victim != checkpoints_.end()) Erase(victim);
  Checkpoint checkpoint = {.kind = kind,
                           .name = std::string(name),
                           .point = point,
                           .shared_tokens = point.context_tokens(),
                           .row = std::make_shared<SavedRow>(row, *totals_)};
  if (kind == CheckpointKind::kNumbered) checkpoint.name = NextNumber();
  if (kind == CheckpointKind::kAutomatic) checkpoint.name.clear();
  checkpoints_.push_back(std::move(checkpoint));
  bytes_ += row.size();
  return &checkpoints_.back();
}

const Checkpoint* CheckpointRing::Find(std::string_view name) const {
  for (const Checkpoint& checkpoint : checkpoints_) {
    if (checkpoint.name == name) return &checkpoint;
  }
  return nullptr;
}

int64_t CheckpointRing::latest_fed() const {
  for (auto checkpoint = checkpoints_.rbegin(); checkpoint != checkpoints_.rend(); ++checkpoint) {
    if (checkpoint->of_present_past()) return checkpoint->point.fed;
  }
  return 0;
}

void CheckpointRing::Diverge(int64_t context) {
  for (size_t i = checkpoints_.size(); i-- > 0;) {
    Checkpoint& checkpoint = checkpoints_[i];
    checkpoint.shared_tokens = std::min(checkpoint.shared_tokens, context);
    if (checkpoint.kind == CheckpointKind::kAutomatic && !checkpoint.of_present_past()) {
      Erase(checkpoints_.begin() + static_cast<ptrdiff_t>(i));
    }
  }
}

void CheckpointRing::Return(std::string_view name) {
  for (Checkpoint& checkpoint : checkpoints_) {
    if (checkpoint.name == name) checkpoint.shared_tokens = checkpoint.point.context_tokens();
  }
}

std::vector<Checkpoint>::iterator CheckpointRing::Replaced(CheckpointKind kind,
                                                           std::string_view name, size_t bytes) {
  if (kind == CheckpointKind::kNamed) {
    const auto same = std::find_if(checkpoints_.begin(), checkpoints_.end(),
                                   [&](const Checkpoint& other) { return other.name == name; });
    if (same != checkpoints_.end()) return same;
  }
  // All rows have one size: the place of one other is enough.
  return bytes_ + bytes > limit_ ? Victim(kind) : checkpoints_.end();
}

std::vector<Checkpoint>::iterator CheckpointRing::Victim(CheckpointKind kind) {
  for (const CheckpointKind victim : {CheckpointKind::kAutomatic, CheckpointKind::kNumbered}) {
    const auto found =
        std::find_if(checkpoints_.begin(), checkpoints_.end(),
                     [&](const Checkpoint& checkpoint) { return checkpoint.kind == victim; });
    if (found != checkpoints_.end()) return found;
    if (kind == CheckpointKind::kAutomatic) break;
  }
  return checkpoints_.end();
}

void CheckpointRing::Erase(const std::vector<Checkpoint>::iterator& checkpoint) {
  bytes_ -= checkpoint->row->bytes().size();
  checkpoints_.erase(checkpoint);
}

std::string CheckpointRing::NextNumber() {
  std::string name;
  do {
    name = absl::StrCat(++last_number_);
  } while (Find(name) != nullptr);
  return name;
}

}  // namespace gma
