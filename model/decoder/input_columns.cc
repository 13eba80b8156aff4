#include "model/decoder/input_columns.h"

namespace gma {

InputColumns InputColumnsOf(const ModelConfig& config, const MixerOptions& options) {
  const int64_t heads = config.num_attention_heads, memory_heads = config.num_memory_heads;
  const int64_t r = config.routing_dim, v = config.head_dim;
  InputColumns columns;
  const auto add = [&columns](const char* tensor, int64_t rows, int64_t& column) {
    column = columns.total;
    columns.total += rows;
    columns.tensors.emplace_back(tensor);
  };
  if (options.has_route_q()) add("route_q_proj.weight", heads * r, columns.route_q);
  add("route_k_proj.weight", memory_heads * r, columns.route_k);
  add("v_proj.weight", memory_heads * v, columns.value);
  if (options.has_qk()) {
    add("q_proj.weight", heads * v, columns.q);
    add("k_proj.weight", memory_heads * v, columns.k);
  }
  if (options.out_gate) add("gate_proj.weight", heads * v, columns.gate);
  if (options.forget == ForgetMode::kHead) add("forget_proj.weight", memory_heads, columns.forget);
  return columns;
}

}  // namespace gma
