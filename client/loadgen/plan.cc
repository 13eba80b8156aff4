#include "client/loadgen/plan.h"

namespace gma::client {

PlannedRequest PlanRequest(const LoadFlags& flags, int32_t vocab_size, int64_t index) {
  std::seed_seq seed{flags.seed, static_cast<uint64_t>(index)};
  std::mt19937_64 random(seed);
  PlannedRequest planned;
  v1::GenerateRequest& request = planned.request;
  request.set_model(flags.connection.model);
  std::uniform_int_distribution<int32_t> token(0, vocab_size - 1);
  auto& ids = *request.mutable_input()->mutable_tokens()->mutable_ids();
  ids.Reserve(static_cast<int>(flags.prompt_tokens));
  for (int64_t i = 0; i < flags.prompt_tokens; ++i) ids.Add(token(random));
  request.mutable_sampling()->set_temperature(flags.temperature);
  request.mutable_sampling()->set_seed(random());
  request.mutable_stop()->set_max_tokens(flags.max_tokens);
  request.mutable_stop()->set_ignore_eos(flags.ignore_eos);
  std::uniform_real_distribution<double> share(0, 1);
  planned.slow = share(random) < flags.slow_readers;
  if (share(random) < flags.cancels) {
    planned.cancel_after = std::uniform_int_distribution<int64_t>(1, flags.max_tokens)(random);
  }
  return planned;
}

Arrivals::Arrivals(const LoadFlags& flags)
    : poisson_(flags.arrivals == "poisson"), rate_(flags.rate), random_(flags.seed) {}

absl::Duration Arrivals::Next() {
  if (!poisson_) return absl::Seconds(static_cast<double>(count_++) / rate_);
  seconds_ += std::exponential_distribution<double>(rate_)(random_);
  return absl::Seconds(seconds_);
}

}  // namespace gma::client
