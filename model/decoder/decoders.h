// The implementations behind CompiledDecoder::Load, each with options that are known to be good.
#ifndef GMA_MODEL_DECODER_DECODERS_H_
#define GMA_MODEL_DECODER_DECODERS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "model/decoder/compiled_decoder.h"

namespace gma {

// Packed weights and SIMD kernels: cpu_decoder.cc.
absl::StatusOr<std::unique_ptr<CompiledDecoder>> LoadCpuDecoder(const ModelDir& model,
                                                                const DecoderOptions& options);

// LibTorch operators, the oracle: reference_decoder.cc, in builds with LibTorch.
absl::StatusOr<std::unique_ptr<CompiledDecoder>> LoadReferenceDecoder(
    const ModelDir& model, const DecoderOptions& options);

// Everything in a GPU's memory: cuda_decoder.cc, in builds with LibTorch and nvcc. `weights` "f32",
// or else bfloat16.
absl::StatusOr<std::unique_ptr<CompiledDecoder>> LoadCudaDecoder(const ModelDir& model,
                                                                 const DecoderOptions& options);

}  // namespace gma

#endif  // GMA_MODEL_DECODER_DECODERS_H_
