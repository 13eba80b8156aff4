#include "model/state/state_pool.h"

#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace gma {
namespace {

// Every float32 and float64 made of these bytes is a NaN.
[[maybe_unused]] constexpr int kPoisonByte = 0xff;

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

void StateRow::Release() {
  if (pool_ == nullptr) return;
  std::exchange(pool_, nullptr)->Return(std::exchange(index_, -1));
}

absl::StatusOr<std::unique_ptr<StatePool>> StatePool::Create(const StateLayout& layout,
                                                             int32_t capacity) {
  GMA_CHECK(capacity > 0);
  // A row has at most 2^32 bytes, so the product fits 64 bits.
  const size_t bytes = (static_cast<size_t>(capacity) + 1) * layout.row_bytes();
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", bytes, " bytes of state: ", capacity,
                     " rows and the scratch row of ", layout.row_bytes(), " bytes each"));
  }
  madvise(data, bytes, MADV_HUGEPAGE);  // where it is refused, steps are slower and nothing else
  return std::unique_ptr<StatePool>(
      new StatePool(static_cast<uint8_t*>(data), layout.row_bytes(), capacity));
}

StatePool::StatePool(uint8_t* data, size_t row_bytes, int32_t capacity)
    : data_(data),
      row_bytes_(row_bytes),
      capacity_(capacity),
      uses_(static_cast<size_t>(capacity), RowUse::kClean) {
  free_.reserve(static_cast<size_t>(capacity));
  for (int32_t index = capacity - 1; index >= 0; --index) free_.push_back(index);
}

StatePool::~StatePool() {
  GMA_CHECK(used() == 0);
  munmap(data_, total_bytes());
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
  // The system's pages start as zeros: a row that nobody wrote needs no memory yet.
  if (was == RowUse::kDirty) std::memset(row.bytes().data(), 0, row_bytes_);
  return row;
}

absl::StatusOr<StateRow> StatePool::AcquireUnset() {
  RowUse was;
  return Lease(was);
}

absl::StatusOr<StateRow> StatePool::AcquireCopy(const StateRow& source) {
  RowUse was;
  GMA_ASSIGN_OR_RETURN(StateRow row, Lease(was));
  std::memcpy(row.bytes().data(), source.bytes().data(), row_bytes_);
  return row;
}

absl::Span<uint8_t> StatePool::row(int32_t index) {
  GMA_CHECK(index >= 0 && index <= capacity_);
  return {data_ + static_cast<size_t>(index) * row_bytes_, row_bytes_};
}

void StatePool::Return(int32_t index) {
  GMA_CHECK(index >= 0 && index < capacity_);
  RowUse& use = uses_[static_cast<size_t>(index)];
  GMA_CHECK(use == RowUse::kLeased);
#ifdef GMA_POISON_STATE
  std::memset(row(index).data(), kPoisonByte, row_bytes_);
#endif
  use = RowUse::kDirty;
  free_.push_back(index);
}

}  // namespace gma
