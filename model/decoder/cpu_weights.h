// Weights of the cpu decoder: every matrix packed once at load (model/kernels/cpu/packed_matrix.h).
#ifndef GMA_MODEL_DECODER_CPU_WEIGHTS_H_
#define GMA_MODEL_DECODER_CPU_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/huge_arena.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/input_columns.h"
#include "model/decoder/thread_pool.h"
#include "model/kernels/cpu/packed_matrix.h"

namespace gma {

struct CpuLayerWeights {
  std::vector<float> input_norm, post_norm;  // [d]
  InputColumns columns;
  // Projections of the normed input: [columns.routing, d], [columns.total - columns.routing, d].
  cpu::PackedMatrix routing_proj, content_proj;
  cpu::PackedMatrix o_proj;   // [d, H v]
  cpu::PackedMatrix gate_up;  // panels of gate_proj and up_proj in turn, [2 * padded f, d]
  cpu::PackedMatrix down;     // [d, f]
};

// Move-only. THREADS: immutable once loaded.
struct CpuWeights {
  HugeArena arena;              // of all matrices
  cpu::PackedMatrix embedding;  // [vocab, d]; empty where it is tied to the head
  cpu::PackedMatrix head;       // [vocab, d]
  std::vector<float> final_norm;
  std::vector<CpuLayerWeights> layers;

  // Bytes of all matrices, which a step of one row reads once.
  size_t bytes() const;
};

// Matrices become `format`; with int4 the embedding, the head and the routing projections int8:
// their steps are what would cost accuracy (docs/BENCHMARKS.md).
CpuWeights LoadCpuWeights(const ModelDir& model, cpu::WeightFormat format, ThreadPool& pool);

}  // namespace gma

#endif  // GMA_MODEL_DECODER_CPU_WEIGHTS_H_
