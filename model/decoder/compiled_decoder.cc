#include "model/decoder/compiled_decoder.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "model/decoder/decoders.h"

namespace gma {
namespace {

absl::Status CheckName(const char* option, const std::string& value,
                       std::initializer_list<const char*> possible) {
  if (std::find(possible.begin(), possible.end(), value) != possible.end()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(option, " is \"", value, "\"; possible: \"",
                                                 absl::StrJoin(possible, "\", \""), "\""));
}

absl::Status CheckAtLeast(const char* option, int32_t value, int32_t least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, " is ", value, "; possible: ", least, " or more"));
}

absl::Status ValidateOptions(const DecoderOptions& options) {
#ifdef GMA_WITH_CUDA
  GMA_RETURN_IF_ERROR(CheckName("device", options.device, {"cpu", "cuda"}));
#else
  GMA_RETURN_IF_ERROR(CheckName("device", options.device, {"cpu"}));
#endif
#ifdef GMA_WITH_TORCH
  GMA_RETURN_IF_ERROR(CheckName("decoder", options.decoder, {"cpu", "reference"}));
#else
  GMA_RETURN_IF_ERROR(CheckName("decoder", options.decoder, {"cpu"}));
#endif
  GMA_RETURN_IF_ERROR(options.device == "cpu" && options.decoder == "cpu"
                          ? CheckName("weights", options.weights, {"f32", "bf16", "int8", "int4"})
                          : CheckName("weights", options.weights, {"f32", "bf16"}));
  GMA_RETURN_IF_ERROR(CheckAtLeast("max_batch_rows", options.max_batch_rows, 1));
  GMA_RETURN_IF_ERROR(CheckAtLeast("max_step_tokens", options.max_step_tokens, 1));
  return CheckAtLeast("threads", options.threads, 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CompiledDecoder>> CompiledDecoder::Load(
    const ModelDir& model, const DecoderOptions& options) {
  GMA_RETURN_IF_ERROR(ValidateOptions(options));
#ifdef GMA_WITH_CUDA
  if (options.device == "cuda") return LoadCudaDecoder(model, options);
#endif
#ifdef GMA_WITH_TORCH
  if (options.decoder == "reference") return LoadReferenceDecoder(model, options);
#endif
  return LoadCpuDecoder(model, options);
}

}  // namespace gma
