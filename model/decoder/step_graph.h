// A row of kernels as one CUDA graph: the GPU is told of all of them at once.
#ifndef GMA_MODEL_DECODER_STEP_GRAPH_H_
#define GMA_MODEL_DECODER_STEP_GRAPH_H_

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace gma {

// Move-only. THREADS: one at a time.
class StepGraph {
 public:
  StepGraph() = default;  // of nothing
  StepGraph(StepGraph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  StepGraph& operator=(StepGraph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }
  ~StepGraph();

  bool captured() const { return graph_ != nullptr; }
  // Keeps what `launch` puts into `stream`, instead of running it: with the same arguments, so what
  // these point to decides what a later Launch does. REQUIRES: not captured().
  // ERRORS: launch's; kInternal when something in it cannot be captured.
  absl::Status Capture(cudaStream_t stream, absl::FunctionRef<absl::Status()> launch);
  // REQUIRES: captured().
  cudaError_t Launch(cudaStream_t stream) const { return cudaGraphLaunch(graph_, stream); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace gma

#endif  // GMA_MODEL_DECODER_STEP_GRAPH_H_
