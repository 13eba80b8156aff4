#include "model/state/state_pool.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace gma {
namespace {

// Every float32 and float64 made of these bytes is a NaN.
[[maybe_unused]] constexpr uint8_t kPoisonByte = 0xff;

}  // namespace

StateRow::StateRow(StateRow&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), index_(std::exchange(other.index_, -1)) {}

StateRow& StateRow::operator=(StateRow&& other) noexcept {
  if (this != &other) {
    Release();
    pool_ = std::exchange(other.pool_, nullptr);
    index_ = std::exchange(other.index_, -1);
  }
  return *this;
}

StateRow::~StateRow() { Release(); }

absl::Span<uint8_t> StateRow::bytes() const {
  GMA_CHECK(holds());
  return pool_->row(index_);
}

RowSource StateRow::view() const {
  GMA_CHECK(holds());
  return RowSource(pool_->memory_, pool_->RowAt(index_), pool_->row_bytes_);
}

void StateRow::Write(absl::Span<const uint8_t> host) const {
  GMA_CHECK(holds() && host.size() == pool_->row_bytes_);
  pool_->memory_.Write(pool_->RowAt(index_), host.data(), host.size());
}

void StateRow::CopyFrom(const StateRow& source) const {
  GMA_CHECK(holds() && source.pool_ == pool_);
  pool_->memory_.Copy(pool_->RowAt(index_), pool_->RowAt(source.index_), pool_->row_bytes_);
}

void StateRow::Clear() const {
  GMA_CHECK(holds());
  pool_->memory_.Fill(pool_->RowAt(index_), 0, pool_->row_bytes_);
}

void StateRow::Release() {
  if (pool_ == nullptr) return;
  std::exchange(pool_, nullptr)->Return(std::exchange(index_, -1));
}

void StateRow::Edit(absl::FunctionRef<void(absl::Span<uint8_t>)> edit) const {
  if (pool_->on_host()) return edit(bytes());
  RowBytes row = view().Copy();
  edit(absl::MakeSpan(row));
  Write(row);
}

absl::StatusOr<std::unique_ptr<StatePool>> StatePool::Create(const StateLayout& layout,
                                                             int32_t capacity, RowMemory& memory) {
  GMA_CHECK(capacity > 0);
  // A row has at most 2^32 bytes, so the product fits 64 bits.
  const size_t bytes = (static_cast<size_t>(capacity) + 1) * layout.row_bytes();
  const absl::StatusOr<uint8_t*> data = memory.Allocate(bytes);
  if (!data.ok()) {
    return absl::Status(
        data.status().code(),
        absl::StrCat(data.status().message(), " of state: ", capacity,
                     " rows and the scratch row of ", layout.row_bytes(), " bytes each"));
  }
  return std::unique_ptr<StatePool>(new StatePool(memory, *data, layout.row_bytes(), capacity));
}

StatePool::StatePool(RowMemory& memory, uint8_t* data, size_t row_bytes, int32_t capacity)
    : memory_(memory),
      data_(data),
      row_bytes_(row_bytes),
      capacity_(capacity),
      uses_(static_cast<size_t>(capacity), RowUse::kClean) {
  free_.reserve(static_cast<size_t>(capacity));
  for (int32_t index = capacity - 1; index >= 0; --index) free_.push_back(index);
}

StatePool::~StatePool() {
  GMA_CHECK(used() == 0);
  memory_.Free(data_, total_bytes());
}

absl::StatusOr<StateRow> StatePool::Lease(RowUse& was) {
  if (free_.empty()) {
    return absl::ResourceExhaustedError(absl::StrCat("all ", capacity_, " state rows are in use"));
  }
  const int32_t index = free_.back();
  free_.pop_back();
  was = std::exchange(uses_[static_cast<size_t>(index)], RowUse::kLeased);
  GMA_CHECK(was != RowUse::kLeased);
  return StateRow(this, index);
}

absl::StatusOr<StateRow> StatePool::Acquire() {
  RowUse was;
  GMA_ASSIGN_OR_RETURN(StateRow row, Lease(was));
  // The memory starts as zeros: a row that nobody wrote may need no pages yet.
  if (was == RowUse::kDirty) row.Clear();
  return row;
}

absl::StatusOr<StateRow> StatePool::AcquireUnset() {
  RowUse was;
  return Lease(was);
}

absl::StatusOr<StateRow> StatePool::AcquireCopy(const StateRow& source) {
  RowUse was;
  GMA_ASSIGN_OR_RETURN(StateRow row, Lease(was));
  row.CopyFrom(source);
  return row;
}

absl::Span<uint8_t> StatePool::row(int32_t index) {
  GMA_CHECK(on_host());
  return {RowAt(index), row_bytes_};
}

uint8_t* StatePool::RowAt(int32_t index) const {
  GMA_CHECK(index >= 0 && index <= capacity_);
  return data_ + static_cast<size_t>(index) * row_bytes_;
}

void StatePool::Return(int32_t index) {
  GMA_CHECK(index >= 0 && index < capacity_);
  RowUse& use = uses_[static_cast<size_t>(index)];
  GMA_CHECK(use == RowUse::kLeased);
#ifdef GMA_POISON_STATE
  memory_.Fill(RowAt(index), kPoisonByte, row_bytes_);
#endif
  use = RowUse::kDirty;
  free_.push_back(index);
}

}  // namespace gma
