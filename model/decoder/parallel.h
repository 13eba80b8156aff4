// LibTorch's threads for loops of ours, so that a process has one pool of workers and not two.
#ifndef GMA_MODEL_DECODER_PARALLEL_H_
#define GMA_MODEL_DECODER_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace gma {

// Makes threads that wait for work sleep rather than spin: starts the program again, once, with
// OMP_WAIT_POLICY=passive, which the OpenMP runtime reads before main. Does nothing where the
// environment has a policy already. Spinning threads beside any other busy process cost a decoder
// step ten times its time.
// REQUIRES: first thing in main, with main's argv.
void LetComputeThreadsSleep(char** argv);

// Sets the number of threads of all matrix products and of ParallelFor in this process.
// 0: one for each processor that the process may run on.
void SetComputeThreads(int32_t threads);

// Calls body(i) once for each i in [0, count); returns when all are done. Exceptions of a body
// come out of the call.
void ParallelFor(int64_t count, const std::function<void(int64_t)>& body);

}  // namespace gma

#endif  // GMA_MODEL_DECODER_PARALLEL_H_
