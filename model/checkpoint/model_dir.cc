#include "model/checkpoint/model_dir.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "model/checkpoint/fingerprint.h"
#include "model/checkpoint/safetensors_header.h"

namespace gma {
namespace {

using Json = nlohmann::ordered_json;
using ShapeMap = std::map<std::string, std::vector<int64_t>>;

constexpr size_t kMaxIndexBytes = size_t{16} << 20;
constexpr size_t kMaxShards = 1024;
constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

std::string Join(const std::string& directory, std::string_view name) {
  return absl::StrCat(directory, "/", absl::string_view(name.data(), name.size()));
}

absl::Status Refuse(const std::string& path, std::string_view reason) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", absl::string_view(reason.data(), reason.size())));
}

// Tensors of one layer's mixer; `prefix` ends in a dot.
void AddMixerTensors(const ModelConfig& config, const MixerOptions& options,
                     const std::string& prefix, ShapeMap& shapes) {
  const int64_t d = config.hidden_size, H = config.num_attention_heads;
  const int64_t G = config.num_memory_heads, K = config.num_components;
  const int64_t r = config.routing_dim, v = config.head_dim;
  auto add = [&](const char* name, std::vector<int64_t> shape) {
    shapes[prefix + name] = std::move(shape);
  };
  if (options.has_route_q()) add("route_q_proj.weight", {H * r, d});
  if (options.has_route_k()) {
    add("route_k_proj.weight", {G * r, d});
  } else {
    add("route", {G, r, v});
  }
  add("v_proj.weight", {G * v, d});
  add("o_proj.weight", {d, H * v});
  add("component_mean", {G, K, r});
  add("component_omega", {G, K, r});
  add("prior_logits", {G, K});
  if (options.has_qk()) {
    add("q_proj.weight", {H * v, d});
    add("k_proj.weight", {G * v, d});
  }
  if (options.has_slot_bias()) add("slot_bias", {H, K});
  if (options.adapted()) add("slot_scale", {H});
  if (options.short_conv > 0) {
    add("conv_weight", {config.ConvChannels(options), options.short_conv});
  }
  if (options.forget == ForgetMode::kHead) {
    add("forget_proj.weight", {G, d});
    add("forget_bias", {G});
    add("forget_a_log", {G});
  }
  if (options.forget == ForgetMode::kWrite) add("forget_beta", {G});
  if (options.route_norm) {
    if (options.has_route_q()) add("route_q_norm.weight", {r});
    add("route_k_norm.weight", {r});
  }
  if (options.out_norm) add("out_norm.weight", {v});
  if (options.out_gate) add("gate_proj.weight", {H * v, d});
}

// A shard's name may not lead out of the directory.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

// Which tensors the index gives to each shard.
absl::StatusOr<std::map<std::string, std::set<std::string, std::less<>>>> ReadIndex(
    const std::string& path) {
  GMA_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kMaxIndexBytes));
  absl::StatusOr<Json> index = ParseJson(text, {.max_bytes = kMaxIndexBytes});
  if (!index.ok()) {
    return Refuse(path, std::string(index.status().message()));
  }
  auto weight_map = index->is_object() ? index->find("weight_map") : index->end();
  if (weight_map == index->end() || !weight_map->is_object()) {
    return Refuse(path, "weight_map is missing or none, must be an object");
  }
  std::map<std::string, std::set<std::string, std::less<>>> shards;
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string() || !IsPlainFileName(file.get_ref<const std::string&>())) {
      return Refuse(path, absl::StrCat("weight_map of ", ShowTensorName(tensor), " is ",
                                       file.dump(-1, ' ', /*ensure_ascii=*/true).substr(0, 64),
                                       ", must be the name of a file in the same directory"));
    }
    shards[file.get<std::string>()].insert(tensor);
    if (shards.size() > kMaxShards) {
      return Refuse(path, absl::StrCat("more than ", kMaxShards, " shards"));
    }
  }
  return shards;
}

// Opens the shards that the index names; each holds what the index says and nothing else.
absl::StatusOr<std::vector<SafetensorsFile>> OpenShards(const std::string& directory) {
  GMA_ASSIGN_OR_RETURN(auto shards, ReadIndex(Join(directory, kIndexFile)));
  std::vector<SafetensorsFile> files;
  for (const auto& [name, tensors] : shards) {
    const std::string path = Join(directory, name);
    GMA_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    for (const auto& [tensor, view] : file.tensors()) {
      if (!tensors.contains(tensor)) {
        return Refuse(path, absl::StrCat("tensor ", ShowTensorName(tensor),
                                         " is not in this shard by the index"));
      }
    }
    for (const std::string& tensor : tensors) {
      if (!file.tensors().contains(tensor)) {
        return Refuse(path, absl::StrCat("tensor ", ShowTensorName(tensor),
                                         " is missing, the index places it here"));
      }
    }
    files.push_back(std::move(file));
  }
  return files;
}

absl::StatusOr<std::vector<SafetensorsFile>> OpenFiles(const std::string& directory) {
  absl::StatusOr<SafetensorsFile> single = SafetensorsFile::Open(Join(directory, kSingleFile));
  if (single.ok()) {
    std::vector<SafetensorsFile> files;
    files.push_back(*std::move(single));
    return files;
  }
  if (!absl::IsNotFound(single.status())) return single.status();
  absl::StatusOr<std::vector<SafetensorsFile>> shards = OpenShards(directory);
  // Whoever has neither file looks for the one, not for the index.
  const bool has_index = MappedFile::Open(Join(directory, kIndexFile)).ok();
  return absl::IsNotFound(shards.status()) && !has_index ? single.status() : std::move(shards);
}

std::string ShowShape(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status CheckTensor(const std::string& name, const TensorView& view, TensorType type,
                         const std::vector<int64_t>& shape) {
  if (view.type != type) {
    auto text = [](TensorType t) {
      return absl::string_view(TensorTypeName(t).data(), TensorTypeName(t).size());
    };
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " has type ", text(view.type),
                                                   ", must be ", text(type), " (torch_dtype)"));
  }
  if (view.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", name, " has shape ", ShowShape(view.shape), ", must be ", ShowShape(shape)));
  }
  return absl::OkStatus();
}

// Whether all exponent bits (`mask`) of some element are set: NaN or infinite. Blocks of fixed
// length let the compiler use vector instructions without a tail.
template <typename Word>
bool HasNonFinite(absl::Span<const Word> words, Word mask) {
  constexpr size_t kBlock = 4096;
  size_t i = 0;
  for (; i + kBlock <= words.size(); i += kBlock) {
    const Word* block = words.data() + i;
    Word found = 0;
    for (size_t j = 0; j < kBlock; ++j) {
      found |= static_cast<Word>(-static_cast<Word>((block[j] & mask) == mask));
    }
    if (found != 0) return true;
  }
  for (; i < words.size(); ++i) {
    if ((words[i] & mask) == mask) return true;
  }
  return false;
}

// REQUIRES: `view` is of type float32 or bfloat16.
absl::Status CheckFinite(const std::string& name, const TensorView& view) {
  const bool found = view.type == TensorType::kFloat32
                         ? HasNonFinite<uint32_t>(view.As<uint32_t>(), 0x7f800000u)
                         : HasNonFinite<uint16_t>(view.As<uint16_t>(), 0x7f80u);
  if (!found) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", name,
                   " holds a non-finite value, must be finite without allow_nonfinite_weights"));
}

}  // namespace

ShapeMap ExpectedTensors(const ModelConfig& config) {
  const int64_t d = config.hidden_size, f = config.intermediate_size, vocab = config.vocab_size;
  ShapeMap shapes;
  shapes["model.embed_tokens.weight"] = {vocab, d};
  shapes["model.norm.weight"] = {d};
  if (!config.tie_word_embeddings) shapes["lm_head.weight"] = {vocab, d};
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    shapes[prefix + "input_layernorm.weight"] = {d};
    shapes[prefix + "post_attention_layernorm.weight"] = {d};
    shapes[prefix + "mlp.gate_proj.weight"] = {f, d};
    shapes[prefix + "mlp.up_proj.weight"] = {f, d};
    shapes[prefix + "mlp.down_proj.weight"] = {d, f};
    AddMixerTensors(config, config.layers[layer], prefix + "mixer.", shapes);
  }
  return shapes;
}

absl::StatusOr<ModelDir> ModelDir::Open(const std::string& path, const ModelDirOptions& options) {
  ModelDir model;
  model.path_ = path;
  GMA_ASSIGN_OR_RETURN(model.config_, LoadModelConfig(path));
  GMA_ASSIGN_OR_RETURN(model.files_, OpenFiles(path));
  for (const SafetensorsFile& file : model.files_) {
    for (const auto& [name, view] : file.tensors()) {
      // Two shards cannot hold one name: the index gives each name one shard.
      GMA_CHECK(model.tensors_.emplace(name, view).second);
    }
  }
  const ShapeMap expected = ExpectedTensors(model.config_);
  for (const auto& [name, view] : model.tensors_) {
    if (!expected.contains(name)) {
      return Refuse(path, absl::StrCat("unknown tensor ", ShowTensorName(name)));
    }
  }
  const TensorType type = model.config_.torch_dtype == WeightType::kFloat32 ? TensorType::kFloat32
                                                                            : TensorType::kBFloat16;
  for (const auto& [name, shape] : expected) {
    auto found = model.tensors_.find(name);
    if (found == model.tensors_.end()) return Refuse(path, absl::StrCat("missing tensor ", name));
    absl::Status status = CheckTensor(name, found->second, type, shape);
    if (status.ok() && !options.allow_nonfinite_weights) {
      status = CheckFinite(name, found->second);
    }
    if (!status.ok()) return Refuse(path, std::string(status.message()));
    model.parameter_count_ +=
        static_cast<int64_t>(found->second.data.size() / TensorTypeBytes(type));
  }
  model.fingerprint_ = ModelFingerprint(model.config_, model.tensors_);
  return model;
}

void ModelDir::LetGoOfPages() const {
  for (const SafetensorsFile& file : files_) file.LetGoOfPages();
}

const TensorView& ModelDir::tensor(std::string_view name) const {
  auto found = tensors_.find(name);
  GMA_CHECK(found != tensors_.end());
  return found->second;
}

}  // namespace gma
