#include <cuda_runtime.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace gma::cuda {

// The kernels' shared memory, by the names that they declare.
alignas(16) float mixer_shared[cuda_emulator::kSharedFloats];
alignas(16) float norm_shared[cuda_emulator::kSharedFloats];

}  // namespace gma::cuda

namespace gma::cuda_emulator {
namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 64 << 10;

enum class State { kReady, kAtShuffle, kAtBarrier, kDone };

// A place to come back to, on another stack: for the compiler's own setjmp and longjmp, which ask
// neither the system for the signal mask nor a sanitizer for what is on the stack. Callers must not
// reckon with registers that a function which jumps leaves alone by itself: hence noipa.
struct Place {
  void* registers[5];
};
#define GMA_JUMPS __attribute__((noipa, no_sanitize("address")))

[[noreturn]] GMA_JUMPS void JumpTo(Place& place) { __builtin_longjmp(place.registers, 1); }

// Entered once by setcontext, then by a jump.
struct Fiber {
  ucontext_t context;
  Place place;
  bool entered;
  State state;
  unsigned shuffles;  // so far: neighbouring ones have slots of their own
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<float> brought[2];  // [threads]
  Place scheduler;
  size_t current, shared_floats;
  const std::function<void()>* thread;
};
Block block;

[[noreturn]] void Fatal(const char* what) {
  std::fprintf(stderr, "cuda emulator: %s\n", what);
  std::abort();
}

GMA_JUMPS void Enter() {
  (*block.thread)();
  block.fibers[block.current].state = State::kDone;
  JumpTo(block.scheduler);
}

// Runs a thread until it waits or is done.
GMA_JUMPS void Run(size_t n) {
  block.current = n;
  threadIdx = dim3(static_cast<unsigned>(n));
  if (__builtin_setjmp(block.scheduler.registers) != 0) return;
  Fiber& fiber = block.fibers[n];
  if (fiber.entered) JumpTo(fiber.place);
  fiber.entered = true;
  setcontext(&fiber.context);
}

GMA_JUMPS void Wait(State state) {
  Fiber& fiber = block.fibers[block.current];
  fiber.state = state;
  if (__builtin_setjmp(fiber.place.registers) == 0) JumpTo(block.scheduler);
}

// Runs the threads of a warp until all are at a barrier, or done.
void RunWarp(size_t begin, size_t end) {
  for (;;) {
    size_t shuffling = 0;
    for (size_t n = begin; n < end; ++n) {
      if (block.fibers[n].state == State::kReady) Run(n);
      shuffling += block.fibers[n].state == State::kAtShuffle;
    }
    if (shuffling == 0) return;
    if (shuffling != end - begin) Fatal("a shuffle that not all lanes of the warp reach");
    for (size_t n = begin; n < end; ++n) block.fibers[n].state = State::kReady;
  }
}

void RunBlock() {
  for (float* shared : {cuda::mixer_shared, cuda::norm_shared}) {
    std::fill(shared, shared + block.shared_floats, NAN);
  }
  for (Fiber& fiber : block.fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack = {.ss_sp = fiber.stack.get(), .ss_flags = 0, .ss_size = kStackBytes};
    fiber.context.uc_link = nullptr;
    fiber.entered = false;
    fiber.state = State::kReady;
    fiber.shuffles = 0;
    makecontext(&fiber.context, Enter, 0);
  }
  const size_t threads = block.fibers.size();
  for (;;) {
    for (size_t n = 0; n < threads; n += kWarp) RunWarp(n, n + kWarp);
    size_t done = 0;
    for (Fiber& fiber : block.fibers) {
      done += fiber.state == State::kDone;
      if (fiber.state == State::kAtBarrier) fiber.state = State::kReady;
    }
    if (done == threads) return;
    if (done > 0) Fatal("a barrier that not all threads of the block reach");
  }
}

std::vector<std::function<void()>>* recording = nullptr;

}  // namespace

void Do(std::function<void()> work) {
  if (recording == nullptr) return work();
  recording->push_back(std::move(work));
}

void AwaitBlock() { Wait(State::kAtBarrier); }

float Exchange(float x, int distance) {
  std::vector<float>& brought = block.brought[block.fibers[block.current].shuffles++ % 2];
  brought[block.current] = x;
  Wait(State::kAtShuffle);
  return brought[block.current ^ static_cast<size_t>(distance)];
}

void RunGrid(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
  const size_t threads = config.blockDim.x;
  if (threads % kWarp != 0 || config.blockDim.y * config.blockDim.z != 1) {
    Fatal("blocks are of one dimension, and of whole warps");
  }
  block.fibers.resize(threads);
  for (std::vector<float>& brought : block.brought) brought.assign(threads, NAN);
  block.thread = &thread;
  block.shared_floats = config.dynamicSmemBytes / sizeof(float);
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = dim3(x, y, z);
        RunBlock();
      }
    }
  }
}

}  // namespace gma::cuda_emulator

cudaError_t cudaStreamBeginCapture(cudaStream_t /*stream*/, cudaStreamCaptureMode /*mode*/) {
  if (gma::cuda_emulator::recording != nullptr) return cudaErrorInvalidValue;
  gma::cuda_emulator::recording = new std::vector<std::function<void()>>;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t /*stream*/, cudaGraph_t* graph) {
  *graph = std::exchange(gma::cuda_emulator::recording, nullptr);
  return *graph == nullptr ? cudaErrorInvalidValue : cudaSuccess;
}
