// Memory that is taken piece by piece and given back all at once, in huge pages where the system
// allows it: what a step reads as a whole is then not slowed down by address translation (15 to 25
// % of a decode step of the default model).
#ifndef GMA_BASE_HUGE_ARENA_H_
#define GMA_BASE_HUGE_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gma {

// Move-only. THREADS: one at a time.
class HugeArena {
 public:
  HugeArena() = default;
  HugeArena(HugeArena&& other) noexcept { *this = static_cast<HugeArena&&>(other); }
  HugeArena& operator=(HugeArena&& other) noexcept;
  ~HugeArena();

  // `bytes` bytes, zero, aligned to 128; they live as long as the arena.
  // ERRORS: throws std::bad_alloc when the system has none, as a vector does.
  uint8_t* Allocate(size_t bytes);

 private:
  struct Block {
    uint8_t* mapping;
    size_t bytes;
  };
  void Free();

  std::vector<Block> blocks_;
  uint8_t* next_ = nullptr;  // free memory of the last block
  size_t left_ = 0;
};

}  // namespace gma

#endif  // GMA_BASE_HUGE_ARENA_H_
