#include "model/decoder/step_graph.h"

#include "base/check.h"
#include "base/status_macros.h"
#include "model/kernels/cuda/device_memory.h"

namespace gma {

StepGraph::~StepGraph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

absl::Status StepGraph::Capture(cudaStream_t stream, absl::FunctionRef<absl::Status()> launch) {
  GMA_CHECK(!captured());
  // Calls of other threads do not count.
  GMA_RETURN_IF_ERROR(cuda::ToStatus(
      cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "a capture"));
  const absl::Status launched = launch();
  cudaGraph_t graph = nullptr;
  absl::Status captured = cuda::ToStatus(cudaStreamEndCapture(stream, &graph), "a capture");
  if (captured.ok() && launched.ok()) {
    captured = cuda::ToStatus(cudaGraphInstantiate(&graph_, graph, 0), "a graph");
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  return launched.ok() ? captured : launched;
}

}  // namespace gma
