#include "server/metrics/metrics.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "prometheus/registry.h"
#include "server/metrics/metric_table.h"

namespace gma {
namespace {

using Labels = std::map<std::string, std::string>;

constexpr std::array kFinishedReasons = {"stop_token", "stop_string", "end_of_text", "length",
                                         "cancelled"};

constexpr std::array kStoreCalls = {"save", "append", "remove", "claim", "list", "sync"};

// Edges of OpenTelemetry's generative AI conventions, with finer ones below 10 ms for tokens: a
// small recurrent model would fall into one bucket.
std::vector<double> TokenGapEdges() {
  return {0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075,
          0.1,    0.15,  0.2,   0.3,   0.4,   0.5,    0.75, 1,     2.5};
}
std::vector<double> FirstTokenEdges() {
  return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10};
}
std::vector<double> DurationEdges() {
  return {0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92};
}

// 1, factor, factor^2, ... up to `last`.
std::vector<double> PowerEdges(double factor, double last) {
  std::vector<double> edges;
  for (double edge = 1; edge <= last; edge *= factor) edges.push_back(edge);
  return edges;
}

// No context length caps these counts.
std::vector<double> TokenCountEdges() { return PowerEdges(4, 67108864); }

// The family of `row`: made by the first call, found again by later ones.
template <typename FamilyBuilder>
auto& Family(FamilyBuilder builder, const MetricRow& row, const Labels& constant_labels,
             prometheus::Registry& registry) {
  return builder.Name(std::string(row.name))
      .Help(std::string(row.help))
      .Labels(constant_labels)
      .Register(registry);
}

// Makes the series of one model in one registry.
class Builder {
 public:
  Builder(prometheus::Registry& registry, const std::string& model_name)
      : registry_(registry), constant_labels_{{"model_name", model_name}} {}

  prometheus::Counter* Counter(const MetricRow& row, const Labels& labels = {}) {
    GMA_CHECK(row.type == MetricType::kCounter);
    return &Family(prometheus::BuildCounter(), row, constant_labels_, registry_).Add(labels);
  }
  prometheus::Gauge* Gauge(const MetricRow& row, const Labels& labels = {}) {
    GMA_CHECK(row.type == MetricType::kGauge);
    return &Family(prometheus::BuildGauge(), row, constant_labels_, registry_).Add(labels);
  }
  std::unique_ptr<HistogramBatch> Histogram(const MetricRow& row, std::vector<double> edges,
                                            const Labels& labels = {}) {
    GMA_CHECK(row.type == MetricType::kHistogram);
    prometheus::Histogram& histogram =
        Family(prometheus::BuildHistogram(), row, constant_labels_, registry_).Add(labels, edges);
    return std::make_unique<HistogramBatch>(&histogram, std::move(edges));
  }

 private:
  prometheus::Registry& registry_;
  const Labels constant_labels_;
};

void BuildTraffic(Builder& builder, Metrics& metrics) {
  metrics.num_requests_running = builder.Gauge(metric_rows::kNumRequestsRunning);
  metrics.num_requests_waiting = builder.Gauge(metric_rows::kNumRequestsWaiting);
  metrics.num_requests_paused = builder.Gauge(metric_rows::kNumRequestsPaused);
  static_assert(kFinishedReasons.size() == decltype(metrics.request_success)::size());
  for (size_t i = 0; i < kFinishedReasons.size(); ++i) {
    metrics.request_success.Set(i, builder.Counter(metric_rows::kRequestSuccess,
                                                   {{"finished_reason", kFinishedReasons[i]}}));
  }
  for (size_t code = 1; code < metrics.request_error.size(); ++code) {
    const std::string name = absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
    metrics.request_error.Set(code, builder.Counter(metric_rows::kRequestError, {{"code", name}}));
  }
  constexpr std::array kRejectReasons = {"queue_full", "no_row", "quota", "draining"};
  static_assert(kRejectReasons.size() == decltype(metrics.admission_rejected)::size());
  for (size_t i = 0; i < kRejectReasons.size(); ++i) {
    metrics.admission_rejected.Set(
        i, builder.Counter(metric_rows::kAdmissionRejected, {{"reason", kRejectReasons[i]}}));
  }
  constexpr std::array kResumes = {"live", "history", "nothing", "future", "gone"};
  static_assert(kResumes.size() == decltype(metrics.stream_resumes)::size());
  for (size_t i = 0; i < kResumes.size(); ++i) {
    metrics.stream_resumes.Set(
        i, builder.Counter(metric_rows::kStreamResumes, {{"result", kResumes[i]}}));
  }
  metrics.turns_detached = builder.Gauge(metric_rows::kTurnsDetached);
  metrics.prompt_tokens = builder.Counter(metric_rows::kPromptTokens);
  metrics.generation_tokens = builder.Counter(metric_rows::kGenerationTokens);
}

void BuildLatency(Builder& builder, Metrics& metrics) {
  using namespace metric_rows;  // NOLINT(google-build-using-namespace): the table's constants
  metrics.time_to_first_token = builder.Histogram(kTimeToFirstToken, FirstTokenEdges());
  metrics.inter_token_latency = builder.Histogram(kInterTokenLatency, TokenGapEdges());
  metrics.e2e_request_latency = builder.Histogram(kE2eRequestLatency, DurationEdges());
  // The parts of the time to the first token have its edges; the rest is as long as an answer.
  metrics.request_queue_time = builder.Histogram(kRequestQueueTime, FirstTokenEdges());
  metrics.request_prefill_time = builder.Histogram(kRequestPrefillTime, FirstTokenEdges());
  metrics.request_decode_time = builder.Histogram(kRequestDecodeTime, DurationEdges());
  metrics.request_prompt_tokens = builder.Histogram(kRequestPromptTokens, TokenCountEdges());
  metrics.request_generation_tokens =
      builder.Histogram(kRequestGenerationTokens, TokenCountEdges());
  metrics.session_context_tokens = builder.Histogram(kSessionContextTokens, TokenCountEdges());
}

void BuildTiersAndStore(Builder& builder, Metrics& metrics) {
  using namespace metric_rows;  // NOLINT(google-build-using-namespace): the table's constants
  constexpr std::array kTiers = {"pool", "memory", "disk"};
  for (size_t i = 0; i < kTiers.size(); ++i) {
    metrics.sessions.Set(i, builder.Gauge(kSessions, {{"tier", kTiers[i]}}));
  }
  metrics.session_parked_bytes = builder.Gauge(kSessionParkedBytes);
  metrics.session_memory_budget = builder.Gauge(kSessionBudgetBytes, {{"tier", "memory"}});
  metrics.session_disk_budget = builder.Gauge(kSessionBudgetBytes, {{"tier", "disk"}});
  struct Move {
    const char *from, *to, *reason;
  };
  constexpr std::array kMoves = {Move{"pool", "memory", "rows"},   Move{"memory", "disk", "memory"},
                                 Move{"pool", "disk", "shutdown"}, Move{"pool", "none", "idle"},
                                 Move{"memory", "none", "idle"},   Move{"disk", "none", "idle"}};
  static_assert(kMoves.size() == decltype(metrics.session_evictions)::size());
  for (size_t i = 0; i < kMoves.size(); ++i) {
    const Move& move = kMoves[i];
    metrics.session_evictions.Set(
        i, builder.Counter(kSessionEvictions,
                           {{"from", move.from}, {"to", move.to}, {"reason", move.reason}}));
  }
  for (size_t i = 0; i < metrics.session_restore_time.size(); ++i) {
    metrics.session_restore_time[i] =
        builder.Histogram(kSessionRestoreTime, TokenGapEdges(), {{"tier", kTiers[i + 1]}});
  }
  metrics.snapshot_save_time = builder.Histogram(kSnapshotSaveTime, TokenGapEdges());
  for (size_t i = 0; i < kStoreCalls.size(); ++i) {
    metrics.store_errors.Set(i, builder.Counter(kStoreErrors, {{"call", kStoreCalls[i]}}));
  }
  metrics.store_lag = builder.Gauge(kStoreLag);
  metrics.store_bytes = builder.Gauge(kStoreBytes);
}

void BuildStepsAndState(Builder& builder, Metrics& metrics) {
  using namespace metric_rows;  // NOLINT(google-build-using-namespace): the table's constants
  constexpr std::array kPhases = {"prefill", "decode", "mixed"};
  static_assert(kPhases.size() == std::tuple_size_v<decltype(metrics.iteration_latency)>);
  for (size_t i = 0; i < kPhases.size(); ++i) {
    metrics.iteration_latency[i] =
        builder.Histogram(kIterationLatency, TokenGapEdges(), {{"phase", kPhases[i]}});
  }
  metrics.executions_eager = builder.Counter(kModelExecutions, {{"mode", "eager"}});
  metrics.executions_graph = builder.Counter(kModelExecutions, {{"mode", "graph"}});
  metrics.scheduled_batch_size = builder.Histogram(kScheduledBatchSize, PowerEdges(2, 1024));
  metrics.iteration_tokens = builder.Histogram(kIterationTokens, PowerEdges(2, 8192));
  metrics.step_failures = builder.Counter(kStepFailures);
  metrics.state_nonfinite = builder.Counter(kStateNonfinite);
  metrics.state_bytes_per_session = builder.Gauge(kStateBytesPerSession);
  metrics.state_pool_bytes = builder.Gauge(kStatePoolBytes);
  metrics.device_memory_used = builder.Gauge(kDeviceMemory, {{"use", "used"}});
  metrics.device_memory_total = builder.Gauge(kDeviceMemory, {{"use", "total"}});
  constexpr std::array kRowUses = {"session", "private", "free"};
  static_assert(kRowUses.size() == decltype(metrics.state_rows)::size());
  for (size_t i = 0; i < kRowUses.size(); ++i) {
    metrics.state_rows.Set(i, builder.Gauge(kStateRows, {{"use", kRowUses[i]}}));
  }
  metrics.session_capacity = builder.Gauge(kSessionCapacity, {{"tier", "pool"}});
  metrics.session_forks = builder.Counter(kSessionForks);
  metrics.session_rewinds = builder.Counter(kSessionRewinds);
  metrics.session_rewind_tokens = builder.Counter(kSessionRewindTokens);
  metrics.session_exports = builder.Counter(kSessionExports);
  metrics.session_imports = builder.Counter(kSessionImports);
  metrics.session_checkpoints = builder.Gauge(kSessionCheckpoints);
  metrics.session_checkpoint_bytes = builder.Gauge(kSessionCheckpointBytes);
  metrics.prefix_hits = builder.Counter(kPrefixHits);
  metrics.prefix_misses = builder.Counter(kPrefixMisses);
  metrics.prefix_tokens_saved = builder.Counter(kPrefixTokensSaved);
  metrics.prefix_bytes = builder.Gauge(kPrefixBytes);
  metrics.model_load_seconds = builder.Gauge(kModelLoad);
  metrics.model_weights_bytes = builder.Gauge(kModelWeightsBytes);
  metrics.resident_memory_bytes = builder.Gauge(kResidentMemoryBytes);
}

}  // namespace

std::string_view FinishedReasonName(FinishedReasonLabel label) {
  return kFinishedReasons[static_cast<size_t>(label)];
}

std::string_view StoreCallName(StoreCallLabel label) {
  return kStoreCalls[static_cast<size_t>(label)];
}

HistogramBatch::HistogramBatch(prometheus::Histogram* target, std::vector<double> edges)
    : target_(target), edges_(std::move(edges)), counts_(edges_.size() + 1) {}

void HistogramBatch::Observe(double value) {
  const auto bucket = std::lower_bound(edges_.begin(), edges_.end(), value) - edges_.begin();
  counts_[static_cast<size_t>(bucket)] += 1;
  sum_ += value;
  dirty_ = true;
}

void HistogramBatch::Flush() {
  if (!dirty_) return;
  target_->ObserveMultiple(counts_, sum_);
  std::fill(counts_.begin(), counts_.end(), 0.0);
  sum_ = 0;
  dirty_ = false;
}

std::unique_ptr<Metrics> Metrics::Create(const MetricsOptions& options) {
  auto metrics = std::make_unique<Metrics>();
  // Without Merge, a second call for the same family would make a second one.
  metrics->registry =
      std::make_shared<prometheus::Registry>(prometheus::Registry::InsertBehavior::Merge);
  Builder builder(*metrics->registry, options.model_name);
  BuildTraffic(builder, *metrics);
  BuildLatency(builder, *metrics);
  BuildStepsAndState(builder, *metrics);
  BuildTiersAndStore(builder, *metrics);
  builder
      .Gauge(metric_rows::kBuildInfo, {{"version", options.version},
                                       {"fingerprint", options.fingerprint},
                                       {"device", options.device},
                                       {"weights", options.weights}})
      ->Set(1);
  return metrics;
}

void Metrics::FlushBatches() {
  for (const auto& batch :
       {&time_to_first_token, &inter_token_latency, &e2e_request_latency, &request_queue_time,
        &request_prefill_time, &request_decode_time, &request_prompt_tokens,
        &request_generation_tokens, &session_context_tokens, &scheduled_batch_size,
        &session_restore_time[0], &session_restore_time[1], &snapshot_save_time, &iteration_tokens,
        &iteration_latency[0], &iteration_latency[1], &iteration_latency[2]}) {
    (*batch)->Flush();
  }
}

}  // namespace gma
