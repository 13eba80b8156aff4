#include "server/metrics/metric_table.h"

namespace gma {

absl::Span<const MetricRow> AllMetrics() {
#define GMA_LIST_METRIC(constant, type, name, labels, help) metric_rows::constant,
  static constexpr MetricRow kRows[] = {GMA_METRICS(GMA_LIST_METRIC)};
#undef GMA_LIST_METRIC
  return kRows;
}

}  // namespace gma
