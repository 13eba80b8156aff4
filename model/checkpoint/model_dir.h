// A model directory, opened and checked: config, weights, fingerprint.
#ifndef GMA_MODEL_CHECKPOINT_MODEL_DIR_H_
#define GMA_MODEL_CHECKPOINT_MODEL_DIR_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/safetensors.h"
#include "model/config/model_config.h"

namespace gma {

// Names and shapes of every tensor that `config` asks for (docs/ARCHITECTURE.md, "Model
// directory").
std::map<std::string, std::vector<int64_t>> ExpectedTensors(const ModelConfig& config);

struct ModelDirOptions {
  bool allow_nonfinite_weights = false;
};

// Move-only. THREADS: immutable after Open.
class ModelDir {
 public:
  // Opens `<path>/config.json` and `model.safetensors` (or the shards of
  // `model.safetensors.index.json`) and checks them against each other.
  // ERRORS: kNotFound for a missing file; kInvalidArgument naming the tensor that is missing,
  // unknown, of the wrong shape or type, or not finite.
  static absl::StatusOr<ModelDir> Open(const std::string& path, const ModelDirOptions& options);

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  // The tensor called `name`, of type config().torch_dtype.
  // REQUIRES: `name` is one of ExpectedTensors(config()).
  const TensorView& tensor(std::string_view name) const;
  // For who has copied the weights: they leave resident memory until they are read again.
  void LetGoOfPages() const;
  // SHA-256 over the canonical config and, in the order of names, each tensor's name, type, shape
  // and bytes: the same for one file and for shards. 64 lower-case hex digits.
  const std::string& fingerprint() const { return fingerprint_; }
  int64_t parameter_count() const { return parameter_count_; }

 private:
  ModelDir() = default;

  std::string path_;
  ModelConfig config_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::string fingerprint_;
  int64_t parameter_count_ = 0;
};

}  // namespace gma

#endif  // GMA_MODEL_CHECKPOINT_MODEL_DIR_H_
