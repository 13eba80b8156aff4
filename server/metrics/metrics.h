// Every metric family of the server, built once at start (docs/OPERATIONS.md, "Metrics"). Names are
// vLLM's stems with the prefix gma_; label sets are closed and never hold a session id. The
// families are the rows of metric_table.h; every series exists from the start, so a rate is never
// missing. THREADS: counters, gauges and histograms from any thread. A HistogramBatch belongs to
// one thread: a histogram takes a lock each time, so the engine collects its samples and flushes
// once a step.
#ifndef GMA_SERVER_METRICS_METRICS_H_
#define GMA_SERVER_METRICS_METRICS_H_

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"

namespace prometheus {
class Registry;
}  // namespace prometheus

namespace gma {

struct MetricsOptions {
  std::string model_name;                             // label of every family
  std::string version, fingerprint, device, weights;  // labels of gma_build_info
};

// Samples of one histogram between two flushes. THREADS: one at a time.
class HistogramBatch {
 public:
  // `edges`: upper ends of the buckets, ascending, those of `target`, which is borrowed.
  HistogramBatch(prometheus::Histogram* target, std::vector<double> edges);

  void Observe(double value);
  // Hands over what was collected: one lock, or none when there is nothing.
  void Flush();

 private:
  prometheus::Histogram* target_;
  std::vector<double> edges_;
  std::vector<double> counts_;  // one a bucket, and the one beyond the last edge
  double sum_ = 0;
  bool dirty_ = false;
};

// Closed label sets. The values are in the comments and in metrics.cc.
enum class FinishedReasonLabel {  // finished_reason
  kStopToken,                     // stop_token
  kStopString,                    // stop_string
  kEndOfText,                     // end_of_text
  kLength,                        // length
  kCancelled,                     // cancelled
};
// As the series has it and the log says it.
std::string_view FinishedReasonName(FinishedReasonLabel label);

enum class RejectReasonLabel {  // reason of gma_admission_rejected_total
  kQueueFull,                   // queue_full
  kNoRow,                       // no_row
  kQuota,                       // quota
  kDraining,                    // draining
};
enum class ResumeLabel {  // result of gma_stream_resumes_total
  kLive,                  // live: the turn goes on
  kHistory,               // history: events of a turn that is over
  kNothing,               // nothing: it was over and all of it had been read
  kFuture,                // future: a number that is none yet
  kGone,                  // gone: events that are no longer kept
};
enum class EvictionLabel {  // from, to, reason of gma_session_evictions_total
  kPoolToMemory,            // pool, memory, rows
  kMemoryToDisk,            // memory, disk, memory
  kPoolToDisk,              // pool, disk, shutdown
  kPoolExpired,             // pool, none, idle
  kMemoryExpired,           // memory, none, idle
  kDiskExpired,             // disk, none, idle
};
enum class StoreCallLabel { kSave, kAppend, kRemove, kClaim, kList, kSync };  // call, as named
std::string_view StoreCallName(StoreCallLabel label);
enum class TierLabel { kPool, kMemory, kDisk };        // tier: pool, memory, disk
enum class PhaseLabel { kPrefill, kDecode, kMixed };   // phase: prefill, decode, mixed
enum class RowUseLabel { kSession, kPrivate, kFree };  // use: session, private, free

// One series for each value of a closed label.
template <typename Label, typename Metric, size_t kSize>
class MetricsByLabel {
 public:
  Metric* operator[](Label label) const { return metrics_[static_cast<size_t>(label)]; }
  void Set(size_t index, Metric* metric) { metrics_[index] = metric; }
  static constexpr size_t size() { return kSize; }

 private:
  std::array<Metric*, kSize> metrics_{};
};

// Pointers are borrowed from the registry and never null.
struct Metrics {
  static std::unique_ptr<Metrics> Create(const MetricsOptions& options);

  // Traffic.
  prometheus::Gauge *num_requests_running, *num_requests_waiting, *num_requests_paused;
  MetricsByLabel<FinishedReasonLabel, prometheus::Counter, 5> request_success;
  MetricsByLabel<absl::StatusCode, prometheus::Counter, 17> request_error;  // kOk stays null
  MetricsByLabel<RejectReasonLabel, prometheus::Counter, 4> admission_rejected;
  MetricsByLabel<ResumeLabel, prometheus::Counter, 5> stream_resumes;
  prometheus::Gauge* turns_detached;
  prometheus::Counter *prompt_tokens, *generation_tokens;

  // Latency in seconds and sizes in tokens, of requests. Engine thread.
  std::unique_ptr<HistogramBatch> time_to_first_token, inter_token_latency, e2e_request_latency,
      request_queue_time, request_prefill_time, request_decode_time, request_prompt_tokens,
      request_generation_tokens, session_context_tokens;

  // Steps. Engine thread.
  std::array<std::unique_ptr<HistogramBatch>, 3> iteration_latency;  // by PhaseLabel
  std::unique_ptr<HistogramBatch> scheduled_batch_size, iteration_tokens;
  prometheus::Counter *step_failures, *state_nonfinite;

  // State.
  prometheus::Gauge *state_bytes_per_session, *state_pool_bytes;
  MetricsByLabel<RowUseLabel, prometheus::Gauge, 3> state_rows;
  prometheus::Gauge* session_capacity;
  MetricsByLabel<TierLabel, prometheus::Gauge, 3> sessions;
  prometheus::Gauge *session_parked_bytes, *session_memory_budget, *session_disk_budget;
  MetricsByLabel<EvictionLabel, prometheus::Counter, 6> session_evictions;
  // By the tier that a session comes from: memory, disk. Engine thread.
  std::array<std::unique_ptr<HistogramBatch>, 2> session_restore_time;
  std::unique_ptr<HistogramBatch> snapshot_save_time;  // engine thread
  MetricsByLabel<StoreCallLabel, prometheus::Counter, 6> store_errors;
  prometheus::Gauge *store_lag, *store_bytes;
  prometheus::Counter *session_forks, *session_rewinds, *session_rewind_tokens, *session_exports,
      *session_imports;
  prometheus::Gauge *session_checkpoints, *session_checkpoint_bytes;
  prometheus::Counter *prefix_hits, *prefix_misses, *prefix_tokens_saved;
  prometheus::Gauge* prefix_bytes;

  // The model, set once by the program.
  prometheus::Gauge *model_load_seconds, *model_weights_bytes;
  prometheus::Counter *executions_eager, *executions_graph;
  prometheus::Gauge *device_memory_used, *device_memory_total;
  prometheus::Gauge* resident_memory_bytes;  // set when they are read

  // Flushes every HistogramBatch. THREADS: the engine's.
  void FlushBatches();

  // For the exposer; owns all of the above.
  std::shared_ptr<prometheus::Registry> registry;
};

}  // namespace gma

#endif  // GMA_SERVER_METRICS_METRICS_H_
