// The servers that a client may use: replicas of one another.
#ifndef GMA_CLIENT_LIB_TARGETS_H_
#define GMA_CLIENT_LIB_TARGETS_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "gma/v1/generation.grpc.pb.h"
#include "gma/v1/models.grpc.pb.h"
#include "gma/v1/sessions.grpc.pb.h"
#include "grpcpp/channel.h"

namespace gma::client {

// One server; connects at the first call. THREADS: any.
struct Target {
  explicit Target(const std::shared_ptr<grpc::Channel>& channel)
      : generation(channel), sessions(channel), models(channel) {}

  v1::Generation::Stub generation;
  v1::Sessions::Stub sessions;
  v1::Models::Stub models;
};

// THREADS: any.
class Targets {
 public:
  // REQUIRES: `targets` is not empty.
  explicit Targets(std::vector<std::unique_ptr<Target>> targets) : targets_(std::move(targets)) {}

  // The one that calls go to now.
  Target& current() const { return *targets_[current_.load() % targets_.size()]; }
  // A call to `target` broke off: later ones go to the next, unless they do already.
  void Leave(const Target& target) {
    size_t at = current_.load();
    if (targets_[at % targets_.size()].get() == &target) {
      current_.compare_exchange_strong(at, at + 1);
    }
  }

 private:
  const std::vector<std::unique_ptr<Target>> targets_;
  std::atomic<size_t> current_{0};
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_TARGETS_H_
