// A layer's constants in device memory.
#ifndef GMA_MODEL_KERNELS_CUDA_DEVICE_MIXER_H_
#define GMA_MODEL_KERNELS_CUDA_DEVICE_MIXER_H_

#include <vector>

#include "absl/status/statusor.h"
#include "model/kernels/cuda/device_memory.h"
#include "model/kernels/cuda/mixer.h"
#include "model/kernels/mixer_step.h"

namespace gma::cuda {

// Owns what layer() points to. Move-only. THREADS: one at a time.
class DeviceMixer {
 public:
  // Copies everything `constants` points to; scores are rounded to float32. The offsets of `place`
  // (where the blocks stand in a row) are taken over, its other fields are not read.
  // ERRORS: as DeviceArray.
  static absl::StatusOr<DeviceMixer> Create(const MixerConstants& constants,
                                            const MixerLayer& place);

  const MixerLayer& layer() const { return layer_; }

 private:
  DeviceMixer() = default;
  // Keeps a copy of `count` numbers; null stays null.
  template <typename T>
  absl::Status Keep(const T* from, size_t count, std::vector<DeviceArray<T>>& kept, const T*& to);
  absl::Status KeepScores(const double* from, size_t count, const float*& to);

  MixerLayer layer_;
  std::vector<DeviceArray<float>> floats_;
  std::vector<DeviceArray<double>> doubles_;
};

}  // namespace gma::cuda

#endif  // GMA_MODEL_KERNELS_CUDA_DEVICE_MIXER_H_
