// All state rows of the server, made once at start: capacity is a number known then, and no length
// of any session changes it.
#ifndef GMA_MODEL_STATE_STATE_POOL_H_
#define GMA_MODEL_STATE_STATE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/state/row_memory.h"
#include "model/state/state_layout.h"

namespace gma {

class StatePool;

// A lease of one row: move-only, returns the row by itself. The pool outlives its leases.
class StateRow {
 public:
  StateRow() = default;  // holds nothing
  StateRow(StateRow&& other) noexcept;
  StateRow& operator=(StateRow&& other) noexcept;
  ~StateRow();

  bool holds() const { return pool_ != nullptr; }
  // REQUIRES: holds().
  int32_t index() const { return index_; }
  RowSource view() const;
  // REQUIRES: of the size of a row, here and below.
  void Write(absl::Span<const uint8_t> host) const;
  // What `source`, a row of the same pool, holds.
  void CopyFrom(const StateRow& source) const;
  void Clear() const;  // the initial state
  // Changes the bytes by edit(bytes) where they are, or on their way through the host.
  void Edit(absl::FunctionRef<void(absl::Span<uint8_t>)> edit) const;
  // The bytes themselves. REQUIRES: the pool is in host memory.
  absl::Span<uint8_t> bytes() const;
  // Gives the row back now.
  void Release();

 private:
  friend class StatePool;
  StateRow(StatePool* pool, int32_t index) : pool_(pool), index_(index) {}

  StatePool* pool_ = nullptr;
  int32_t index_ = -1;
};

// Row index capacity() is the scratch row that padding of a batch writes to; it is never leased.
// THREADS: engine thread only.
class StatePool {
 public:
  // REQUIRES: capacity > 0, in rows; `memory` outlives the pool.
  // ERRORS: kResourceExhausted naming the bytes asked for when the memory cannot be had.
  static absl::StatusOr<std::unique_ptr<StatePool>> Create(const StateLayout& layout,
                                                           int32_t capacity,
                                                           RowMemory& memory = RowMemory::Host());
  ~StatePool();
  StatePool(const StatePool&) = delete;
  StatePool& operator=(const StatePool&) = delete;

  // Leases a row in its initial state (all bytes zero).
  // ERRORS: kResourceExhausted naming the capacity when every row is leased.
  absl::StatusOr<StateRow> Acquire();
  // Leases a row that holds anything: the caller writes all of it. ERRORS: as Acquire.
  absl::StatusOr<StateRow> AcquireUnset();
  // Leases a row that holds what `source` holds.
  // REQUIRES: source.holds(). ERRORS: as Acquire.
  absl::StatusOr<StateRow> AcquireCopy(const StateRow& source);

  // Bytes of any row, the scratch row included.
  // REQUIRES: 0 <= index <= capacity(); the pool is in host memory.
  absl::Span<uint8_t> row(int32_t index);
  int32_t scratch_row() const { return capacity_; }
  // The first row in the pool's memory; the others follow.
  uint8_t* data() const { return data_; }
  bool on_host() const { return memory_.on_host(); }

  int32_t capacity() const { return capacity_; }
  int32_t used() const { return capacity_ - static_cast<int32_t>(free_.size()); }
  size_t row_bytes() const { return row_bytes_; }
  // Bytes of the whole pool, scratch row included.
  size_t total_bytes() const { return (static_cast<size_t>(capacity_) + 1) * row_bytes_; }

 private:
  friend class StateRow;

  // kClean -> kLeased (Acquire); kLeased -> kDirty (Return); kDirty -> kLeased (Acquire, zeroed).
  enum class RowUse : uint8_t { kClean, kLeased, kDirty };

  StatePool(RowMemory& memory, uint8_t* data, size_t row_bytes, int32_t capacity);
  uint8_t* RowAt(int32_t index) const;
  // Takes a free row as its last lease left it; `was` tells how. ERRORS: as Acquire.
  absl::StatusOr<StateRow> Lease(RowUse& was);
  // Makes the row free again; GMA_POISON_STATE builds fill it with NaN until the next lease.
  void Return(int32_t index);

  RowMemory& memory_;
  uint8_t* const data_;
  const size_t row_bytes_;
  const int32_t capacity_;
  std::vector<int32_t> free_;  // last returned, first leased: its pages are warm
  std::vector<RowUse> uses_;   // [capacity]
};

}  // namespace gma

#endif  // GMA_MODEL_STATE_STATE_POOL_H_
