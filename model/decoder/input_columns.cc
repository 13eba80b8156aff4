#include "model/decoder/input_columns.h"

namespace gma {

InputColumns InputColumnsOf(const ModelConfig& config, const MixerOptions& options) {
  const int64_t heads = config.num_attention_heads, memory_heads = config.num_memory_heads;
  const int64_t r = config.routing_dim, v = config.head_dim;
  InputColumns columns;
  std::vector<std::string>* tensors = &columns.routing_tensors;
  const auto add = [&](const char* tensor, int64_t rows, int64_t& column) {
    column = columns.total;
    columns.total += rows;
    tensors->emplace_back(tensor);
  };
  if (options.has_route_q()) add("route_q_proj.weight", heads * r, columns.route_q);
  if (options.has_route_k()) {
    add("route_k_proj.weight", memory_heads * r, columns.route_k);
  } else {
    add("k_proj.weight", memory_heads * v, columns.k);  // decides where the token goes
  }
  if (options.forget == ForgetMode::kHead) add("forget_proj.weight", memory_heads, columns.forget);
  columns.routing = columns.total;
  tensors = &columns.content_tensors;
  add("v_proj.weight", memory_heads * v, columns.value);
  if (options.has_qk()) {
    add("q_proj.weight", heads * v, columns.q);
    if (options.has_route_k()) add("k_proj.weight", memory_heads * v, columns.k);
  }
  if (options.out_gate) add("gate_proj.weight", heads * v, columns.gate);
  return columns;
}

}  // namespace gma
