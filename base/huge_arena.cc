#include "base/huge_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

namespace gma {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kBlockBytes = size_t{64} << 20;  // address space; pages come with their first use
constexpr size_t kAlignment = 128;

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

HugeArena& HugeArena::operator=(HugeArena&& other) noexcept {
  if (this == &other) return *this;
  Free();
  blocks_ = std::exchange(other.blocks_, {});
  next_ = std::exchange(other.next_, nullptr);
  left_ = std::exchange(other.left_, 0);
  return *this;
}

HugeArena::~HugeArena() { Free(); }

void HugeArena::Free() {
  for (const Block& block : blocks_) munmap(block.mapping, block.bytes);
  blocks_.clear();
}

uint8_t* HugeArena::Allocate(size_t bytes) {
  bytes = RoundUp(bytes, kAlignment);
  if (bytes > left_) {
    const size_t size = std::max(kBlockBytes, RoundUp(bytes, kHugePage));
    const size_t mapped = size + kHugePage;  // room to begin at a huge page
    void* mapping =
        mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    blocks_.push_back({static_cast<uint8_t*>(mapping), mapped});
    const auto address = reinterpret_cast<uintptr_t>(mapping);
    next_ = blocks_.back().mapping + (RoundUp(address, kHugePage) - address);
    left_ = size;
    madvise(next_, size, MADV_HUGEPAGE);  // where it is refused, steps are slower and nothing else
  }
  left_ -= bytes;
  return std::exchange(next_, next_ + bytes);
}

}  // namespace gma
