// The one table of metric families: name, type, labels and help. It makes the families
// (metrics.cc), and docs/OPERATIONS.md, boards and rules are checked against it.
#ifndef GMA_SERVER_METRICS_METRIC_TABLE_H_
#define GMA_SERVER_METRICS_METRIC_TABLE_H_

#include <string_view>

#include "absl/types/span.h"

namespace gma {

enum class MetricType { kCounter, kGauge, kHistogram };

// One family. Every series also has the label model_name.
struct MetricRow {
  MetricType type;
  std::string_view name;
  std::string_view labels;  // names of further labels, separated by commas; empty: none
  std::string_view help;
};

// Rows of the table; X(constant, type, name, labels, help).
#define GMA_METRICS(X)                                                                             \
  X(kNumRequestsRunning, kGauge, "gma_num_requests_running", "",                                   \
    "Requests that were scheduled and have not ended.")                                            \
  X(kNumRequestsWaiting, kGauge, "gma_num_requests_waiting", "",                                   \
    "Requests that were accepted and not scheduled yet.")                                          \
  X(kNumRequestsPaused, kGauge, "gma_num_requests_paused", "",                                     \
    "Running requests left out of the last step because their reader was behind.")                 \
  X(kRequestSuccess, kCounter, "gma_request_success_total", "finished_reason",                     \
    "Answers that ended as asked, by reason; each of n answers counts.")                           \
  X(kRequestError, kCounter, "gma_request_error_total", "code",                                    \
    "Requests that were refused or failed, by google.rpc code.")                                   \
  X(kAdmissionRejected, kCounter, "gma_admission_rejected_total", "reason",                        \
    "Requests refused before any work, by reason.")                                                \
  X(kStreamResumes, kCounter, "gma_stream_resumes_total", "result",                                \
    "Readers that came back to a session's last turn, by what they found.")                        \
  X(kTurnsDetached, kGauge, "gma_turns_detached", "",                                              \
    "Turns that stand still because their reader is gone, until it comes back or time is up.")     \
  X(kPromptTokens, kCounter, "gma_prompt_tokens_total", "", "Tokens of input fed to the model.")   \
  X(kGenerationTokens, kCounter, "gma_generation_tokens_total", "", "Tokens generated.")           \
  X(kTimeToFirstToken, kHistogram, "gma_time_to_first_token_seconds", "",                          \
    "From acceptance of a request to its first token.")                                            \
  X(kInterTokenLatency, kHistogram, "gma_inter_token_latency_seconds", "",                         \
    "Between two tokens of one answer.")                                                           \
  X(kE2eRequestLatency, kHistogram, "gma_e2e_request_latency_seconds", "",                         \
    "From acceptance of a request to its end.")                                                    \
  X(kRequestQueueTime, kHistogram, "gma_request_queue_time_seconds", "",                           \
    "From acceptance of a request to its first step.")                                             \
  X(kRequestPrefillTime, kHistogram, "gma_request_prefill_time_seconds", "",                       \
    "From a request's first step to its first token.")                                             \
  X(kRequestDecodeTime, kHistogram, "gma_request_decode_time_seconds", "",                         \
    "From a request's first token to its last.")                                                   \
  X(kRequestPromptTokens, kHistogram, "gma_request_prompt_tokens", "",                             \
    "Tokens of input of one request.")                                                             \
  X(kRequestGenerationTokens, kHistogram, "gma_request_generation_tokens", "",                     \
    "Tokens generated in one answer.")                                                             \
  X(kIterationLatency, kHistogram, "gma_iteration_latency_seconds", "phase",                       \
    "One step of the decoder; phase mixed has rows of both kinds.")                                \
  X(kModelExecutions, kCounter, "gma_model_executions_total", "mode",                              \
    "Steps of the decoder: as a graph captured before (GPU), or eager.")                           \
  X(kScheduledBatchSize, kHistogram, "gma_scheduled_batch_size", "", "Rows in one step.")          \
  X(kIterationTokens, kHistogram, "gma_iteration_tokens", "", "Tokens fed in one step.")           \
  X(kStepFailures, kCounter, "gma_step_failures_total", "",                                        \
    "Steps that the decoder failed; the rows in them were lost.")                                  \
  X(kStateNonfinite, kCounter, "gma_state_nonfinite_total", "",                                    \
    "Answers that ended because their logits were not finite.")                                    \
  X(kStateBytesPerSession, kGauge, "gma_state_bytes_per_session", "",                              \
    "Bytes of one state row: the same at any length of a session.")                                \
  X(kStatePoolBytes, kGauge, "gma_state_pool_bytes", "", "Bytes of the whole pool of state rows.") \
  X(kDeviceMemory, kGauge, "gma_device_memory_bytes", "use",                                       \
    "Bytes of the GPU's memory, of all programs on it: used, and total; 0: there is no GPU.")      \
  X(kStateRows, kGauge, "gma_state_rows", "use",                                                   \
    "State rows by use: leased to sessions, to private requests, or free.")                        \
  X(kSessionCapacity, kGauge, "gma_session_capacity", "tier",                                      \
    "State rows there are; private requests take rows too.")                                       \
  X(kSessions, kGauge, "gma_sessions", "tier", "Open sessions, without private ones.")             \
  X(kSessionParkedBytes, kGauge, "gma_session_parked_bytes", "",                                   \
    "Bytes of state rows of parked sessions in host memory.")                                      \
  X(kSessionBudgetBytes, kGauge, "gma_session_budget_bytes", "tier",                               \
    "Bytes that parked sessions may take, of host memory and in the store; +Inf: no limit.")       \
  X(kSessionRestoreTime, kHistogram, "gma_session_restore_seconds", "tier",                        \
    "Time to bring a session back into the pool, by the tier that it was in.")                     \
  X(kSnapshotSaveTime, kHistogram, "gma_snapshot_save_seconds", "",                                \
    "Time to seal a session and write it to the store.")                                           \
  X(kStoreErrors, kCounter, "gma_store_errors_total", "call",                                      \
    "Calls of the store that failed; sessions go on from memory.")                                 \
  X(kStoreLag, kGauge, "gma_store_lag_seconds", "",                                                \
    "Age of the oldest write that the store has not taken; 0: it has all.")                        \
  X(kStoreBytes, kGauge, "gma_store_bytes", "",                                                    \
    "Bytes in the store of the sessions that this server knows.")                                  \
  X(kSessionEvictions, kCounter, "gma_session_evictions_total", "from,to,reason",                  \
    "Sessions moved to a lower tier, or ended (to none), by reason.")                              \
  X(kSessionContextTokens, kHistogram, "gma_session_context_tokens", "",                           \
    "Tokens in a session's state when a turn on it ends.")                                         \
  X(kSessionForks, kCounter, "gma_session_forks_total", "", "Sessions made as a copy of another.") \
  X(kSessionRewinds, kCounter, "gma_session_rewinds_total", "",                                    \
    "Sessions taken back to an earlier state.")                                                    \
  X(kSessionRewindTokens, kCounter, "gma_session_rewind_tokens_total", "",                         \
    "Tokens fed again to get from a checkpoint to the state asked for.")                           \
  X(kSessionExports, kCounter, "gma_session_exports_total", "", "Sessions given out as a blob.")   \
  X(kSessionImports, kCounter, "gma_session_imports_total", "", "Sessions made from a blob.")      \
  X(kSessionCheckpoints, kGauge, "gma_session_checkpoints", "",                                    \
    "Copies of state rows kept for rewinding; forks share them.")                                  \
  X(kSessionCheckpointBytes, kGauge, "gma_session_checkpoint_bytes", "",                           \
    "Bytes of those copies in host memory.")                                                       \
  X(kPrefixHits, kCounter, "gma_prefix_hits_total", "",                                            \
    "Requests that began with a state that an earlier one of their owner had left.")               \
  X(kPrefixMisses, kCounter, "gma_prefix_misses_total", "",                                        \
    "Requests that began anew and found no such state.")                                           \
  X(kPrefixTokensSaved, kCounter, "gma_prefix_tokens_saved_total", "",                             \
    "Tokens of input that those states had read already.")                                         \
  X(kPrefixBytes, kGauge, "gma_prefix_bytes", "", "Bytes of states kept for such requests.")       \
  X(kModelLoad, kGauge, "gma_model_load_seconds", "", "Time the model took to load at start.")     \
  X(kModelWeightsBytes, kGauge, "gma_model_weights_bytes", "",                                     \
    "Bytes of the weights as they are kept in memory.")                                            \
  X(kResidentMemoryBytes, kGauge, "gma_resident_memory_bytes", "",                                 \
    "Resident memory of the process, everything included.")                                        \
  X(kBuildInfo, kGauge, "gma_build_info", "version,fingerprint,device,weights",                    \
    "Always 1; the labels say what runs.")

namespace metric_rows {
#define GMA_DECLARE_METRIC(constant, type, name, labels, help) \
  inline constexpr MetricRow constant = {MetricType::type, name, labels, help};
GMA_METRICS(GMA_DECLARE_METRIC)
#undef GMA_DECLARE_METRIC
}  // namespace metric_rows

// Every row of the table, in its order.
absl::Span<const MetricRow> AllMetrics();

}  // namespace gma

#endif  // GMA_SERVER_METRICS_METRIC_TABLE_H_
