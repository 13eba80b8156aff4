#include "server/metrics/metrics.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/registry.h"
#include "server/metrics/metric_table.h"

namespace gma {
namespace {

using ::prometheus::ClientMetric;
using ::prometheus::MetricFamily;

std::unique_ptr<Metrics> MakeMetrics() {
  return Metrics::Create({.model_name = "tiny",
                          .version = "0.1.0",
                          .fingerprint = "abc",
                          .device = "cpu",
                          .weights = "f32"});
}

std::map<std::string, MetricFamily> Families(const Metrics& metrics) {
  std::map<std::string, MetricFamily> families;
  for (MetricFamily& family : metrics.registry->Collect()) families[family.name] = family;
  return families;
}

prometheus::MetricType PrometheusType(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return prometheus::MetricType::Counter;
    case MetricType::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricType::kHistogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

TEST(MetricsTest, EveryRowOfTheTableHasItsSeriesFromTheStart) {
  const auto metrics = MakeMetrics();
  const auto families = Families(*metrics);
  EXPECT_EQ(families.size(), AllMetrics().size());
  for (const MetricRow& row : AllMetrics()) {
    const auto it = families.find(std::string(row.name));
    ASSERT_NE(it, families.end()) << row.name;
    EXPECT_EQ(it->second.type, PrometheusType(row.type)) << row.name;
    EXPECT_EQ(it->second.help, row.help);
    ASSERT_FALSE(it->second.metric.empty()) << row.name;
    std::set<std::string> expected = {"model_name"};
    for (absl::string_view label : absl::StrSplit(
             absl::string_view(row.labels.data(), row.labels.size()), ',', absl::SkipEmpty())) {
      expected.insert(std::string(label));
    }
    for (const ClientMetric& metric : it->second.metric) {
      std::set<std::string> labels;
      for (const ClientMetric::Label& label : metric.label) labels.insert(label.name);
      EXPECT_EQ(labels, expected) << row.name;
    }
  }
}

TEST(MetricsTest, NamesFollowTheConventions) {
  for (const MetricRow& row : AllMetrics()) {
    EXPECT_EQ(row.name.substr(0, 4), "gma_");
    EXPECT_EQ(row.name.ends_with("_total"), row.type == MetricType::kCounter) << row.name;
    EXPECT_TRUE(row.help.ends_with(".")) << row.name;
  }
}

TEST(MetricsTest, LabelsHaveOneSeriesForEachValue) {
  const auto metrics = MakeMetrics();
  metrics->request_success[FinishedReasonLabel::kLength]->Increment();
  metrics->request_error[absl::StatusCode::kNotFound]->Increment(2);
  std::map<std::string, double> values;
  const auto families = Families(*metrics);
  for (const char* name : {"gma_request_success_total", "gma_request_error_total"}) {
    for (const ClientMetric& metric : families.at(name).metric) {
      for (const ClientMetric::Label& label : metric.label) {
        if (label.name != "model_name") values[label.value] = metric.counter.value;
      }
    }
  }
  EXPECT_EQ(values.size(), 5u + 16u);
  EXPECT_EQ(values.at("length"), 1);
  EXPECT_EQ(values.at("stop_token"), 0);
  EXPECT_EQ(values.at("NOT_FOUND"), 2);
  EXPECT_EQ(values.at("DATA_LOSS"), 0);
}

TEST(MetricsTest, ABatchShowsOnlyAfterItsFlushAndCountsAsSingleSamplesWould) {
  prometheus::Histogram single({1, 2, 5}), batched({1, 2, 5});
  HistogramBatch batch(&batched, {1, 2, 5});
  for (double value : {0.5, 1.0, 1.5, 2.0, 4.0, 5.0, 5.5, 100.0}) {
    single.Observe(value);
    batch.Observe(value);
  }
  EXPECT_EQ(batched.Collect().histogram.sample_count, 0u);
  batch.Flush();
  batch.Flush();  // a second flush adds nothing
  const ClientMetric::Histogram a = single.Collect().histogram, b = batched.Collect().histogram;
  EXPECT_EQ(a.sample_count, b.sample_count);
  EXPECT_EQ(a.sample_sum, b.sample_sum);
  for (size_t i = 0; i < a.bucket.size(); ++i) {
    EXPECT_EQ(a.bucket[i].cumulative_count, b.bucket[i].cumulative_count) << i;
  }
}

TEST(MetricsTest, FlushBatchesReachesEveryHistogram) {
  const auto metrics = MakeMetrics();
  for (HistogramBatch* batch :
       {metrics->time_to_first_token.get(), metrics->inter_token_latency.get(),
        metrics->e2e_request_latency.get(), metrics->request_queue_time.get(),
        metrics->request_prefill_time.get(), metrics->request_decode_time.get(),
        metrics->request_prompt_tokens.get(), metrics->request_generation_tokens.get(),
        metrics->session_context_tokens.get(), metrics->scheduled_batch_size.get(),
        metrics->iteration_tokens.get(), metrics->iteration_latency[0].get(),
        metrics->iteration_latency[1].get(), metrics->iteration_latency[2].get(),
        metrics->session_restore_time[0].get(), metrics->session_restore_time[1].get(),
        metrics->snapshot_save_time.get()}) {
    batch->Observe(1);
  }
  metrics->FlushBatches();
  size_t histograms = 0;
  for (const auto& [name, family] : Families(*metrics)) {
    if (family.type != prometheus::MetricType::Histogram) continue;
    for (const ClientMetric& metric : family.metric) {
      EXPECT_EQ(metric.histogram.sample_count, 1u) << name;
      ++histograms;
    }
  }
  EXPECT_EQ(histograms, 17u);
}

}  // namespace
}  // namespace gma
