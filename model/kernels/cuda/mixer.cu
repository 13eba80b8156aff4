#include "model/kernels/cuda/mixer.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "model/kernels/cuda/mixer_read.cuh"
#include "model/kernels/cuda/mixer_scratch.cuh"
#include "model/kernels/cuda/mixer_write.cuh"

namespace gma::cuda {
namespace {

constexpr int kHeadsAtOnce = 4;             // of the query heads that share a memory head
constexpr size_t kPlainShared = 48 * 1024;  // bytes of shared memory that need no asking

template <int kHeads, int kLanes>
__device__ void TakeToken(const MixerLayer& layer, const MixerBatch& batch, const Place& place,
                          const MixerScratch& s) {
  const int share = layer.heads / layer.memory_heads;
  MoveOldSlots(layer, place);
  PrepareToken(layer, batch, place, s);
  __syncthreads();
  NormRoutes(layer, s);
  __syncthreads();
  float log_decay;
  const bool writes = ChooseContent(layer, batch, place, s, log_decay);
  if (!layer.adapted) StaticLogits(layer, place, s);
  __syncthreads();
  if (writes && layer.key_route != nullptr) KeyRoute(layer, place, s);
  __syncthreads();
  for (int k = threadIdx.x; writes && k < layer.components; k += blockDim.x) {
    s.scores[k] = Score(layer, place.head, k, s.content_route);
  }
  __syncthreads();
  UpdateMasses(layer, place, s, writes, log_decay);
  __syncthreads();
  for (int first = 0; first < share; first += kHeads) {
    HeadReads<kHeads, kLanes> reads;
    reads.first = first;
    reads.count = min(kHeads, share - first);
    if (layer.adapted || layer.window > 0) reads.LoadQueries(s.query, layer.head_dim);
    reads.Slots(layer, place, s, writes && first == 0);
    reads.Window(layer, place);
    MergeReads(layer, reads, s);
    FinishHeads(layer, batch, place, s, first, reads.count);
  }
}

}  // namespace

template <int kHeads, int kLanes>
__global__ void __launch_bounds__(kMixerThreads) MixerKernel(MixerLayer layer, MixerBatch batch) {
  extern __shared__ float mixer_shared[];
  MixerScratch s;
  s.Place(layer, kHeads, blockDim.x / kWarp, mixer_shared);
  const int row = blockIdx.x;
  Place place;
  place.row = batch.pool + batch.state_row[row] * batch.row_bytes;
  place.head = blockIdx.y;
  const int64_t position = *place.Block<const int64_t>(0);
  for (int i = 0; i < batch.count[row]; ++i) {
    place.position = position + i;
    place.token = batch.first[row] + i;
    TakeToken<kHeads, kLanes>(layer, batch, place, s);
  }
}

namespace {

template <int kHeads, int kLanes>
cudaError_t Launch(const MixerLayer& layer, const MixerBatch& batch, cudaStream_t stream,
                   int32_t threads) {
  MixerScratch s;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(batch.rows, layer.memory_heads);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = s.Place(layer, kHeads, threads / kWarp, nullptr) * sizeof(float);
  config.stream = stream;
  if (config.dynamicSmemBytes > kPlainShared) {
    const cudaError_t asked = cudaFuncSetAttribute(MixerKernel<kHeads, kLanes>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(config.dynamicSmemBytes));
    if (asked != cudaSuccess) return asked;
  }
  return cudaLaunchKernelEx(&config, MixerKernel<kHeads, kLanes>, layer, batch);
}

template <int kHeads>
cudaError_t LaunchHeads(const MixerLayer& layer, const MixerBatch& batch, cudaStream_t stream,
                        int32_t threads) {
  if (layer.head_dim <= kWarp) return Launch<kHeads, 1>(layer, batch, stream, threads);
  if (layer.head_dim <= 2 * kWarp) return Launch<kHeads, 2>(layer, batch, stream, threads);
  if (layer.head_dim <= 4 * kWarp) return Launch<kHeads, 4>(layer, batch, stream, threads);
  return Launch<kHeads, 8>(layer, batch, stream, threads);
}

}  // namespace

cudaError_t RunMixer(const MixerLayer& layer, const MixerBatch& batch, cudaStream_t stream,
                     int32_t threads) {
  if (layer.head_dim > kMaxHeadDim || layer.heads % layer.memory_heads != 0 ||
      threads % kWarp != 0 || threads > kMixerThreads) {
    return cudaErrorInvalidValue;
  }
  if (batch.rows == 0) return cudaSuccess;
  switch (std::min(layer.heads / layer.memory_heads, kHeadsAtOnce)) {
    case 1:
      return LaunchHeads<1>(layer, batch, stream, threads);
    case 2:
      return LaunchHeads<2>(layer, batch, stream, threads);
    case 3:
      return LaunchHeads<3>(layer, batch, stream, threads);
    default:
      return LaunchHeads<kHeadsAtOnce>(layer, batch, stream, threads);
  }
}

}  // namespace gma::cuda
