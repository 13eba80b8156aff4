// Weights of the cuda decoder in device memory.
#ifndef GMA_MODEL_DECODER_CUDA_WEIGHTS_H_
#define GMA_MODEL_DECODER_CUDA_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/input_columns.h"
#include "model/kernels/cuda/device_memory.h"
#include "model/kernels/cuda/device_mixer.h"
#include "model/state/state_layout.h"

namespace gma {

// Row-major; T is float or __nv_bfloat16.
template <typename T>
struct DeviceMatrix {
  int64_t outputs = 0, inputs = 0;
  cuda::DeviceArray<T> numbers;  // [outputs, inputs]
};

template <typename T>
struct CudaLayerWeights {
  cuda::DeviceArray<float> input_norm, post_norm;  // [d]
  InputColumns columns;
  DeviceMatrix<T> input_proj;                          // [columns.total, d]
  DeviceMatrix<T> o_proj;                              // [d, H v]
  DeviceMatrix<T> gate_up;                             // [2 f, d]: gate_proj, up_proj
  DeviceMatrix<T> down;                                // [d, f]
  cuda::DeviceArray<double> forget_rate, forget_bias;  // [G] of forget "head"
  std::optional<cuda::DeviceMixer> mixer;              // always there
};

// Move-only.
template <typename T>
struct CudaWeights {
  DeviceMatrix<T> embedding;  // [vocab, d]; empty where it is tied to the head
  DeviceMatrix<T> head;       // [vocab, d]
  cuda::DeviceArray<float> final_norm;
  std::vector<CudaLayerWeights<T>> layers;
  size_t matrix_bytes = 0;  // of all matrices, which a step reads once
};

// ERRORS: kResourceExhausted when the device's memory is too small.
template <typename T>
absl::StatusOr<CudaWeights<T>> LoadCudaWeights(const ModelDir& model, const StateLayout& layout);

}  // namespace gma

#endif  // GMA_MODEL_DECODER_CUDA_WEIGHTS_H_
