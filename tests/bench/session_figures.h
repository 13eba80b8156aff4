// What the calls on sessions cost through gRPC, on sessions of different lengths in turn.
#ifndef GMA_TESTS_BENCH_SESSION_FIGURES_H_
#define GMA_TESTS_BENCH_SESSION_FIGURES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/lib/client.h"
#include "nlohmann/json.hpp"

namespace gma::bench {

// THREADS: one at a time.
class SessionFigures {
 public:
  // `client` outlives it; `vocab_size` of its server's model.
  SessionFigures(client::Client& client, int32_t vocab_size)
      : client_(client), vocab_size_(vocab_size) {}

  // A session to measure, of so many random tokens.
  absl::Status AddFed(int64_t tokens);
  // One from a blob.
  absl::Status AddImported(std::string_view blob);

  // Fork, 64 forks, checkpoint, rewind, export, import, resume, decode; so often each.
  // REQUIRES: the server has 70 state rows, room for one checkpoint a session, and no store.
  absl::Status MeasureCalls(int32_t repeats);
  // Parking and waking. REQUIRES: the server has two state rows, --park_memory_bytes of three, no
  // checkpoints, and a store.
  absl::Status MeasureTiers(int32_t repeats);
  // Decode alone, so many answers of 50 tokens.
  absl::Status MeasureDecode(int32_t answers);

  // {what: {tokens: {median_ms, p99_ms, readings}}}
  nlohmann::ordered_json Report() const;

 private:
  struct Place {
    int64_t tokens;  // at first
    std::string id;
  };
  using Call = std::function<absl::Status()>;

  absl::Status Append(const std::string& id, int32_t count);
  // Milliseconds of a step of an answer, as the server saw it.
  absl::StatusOr<double> Decode(const std::string& id, int32_t count);
  absl::StatusOr<std::string> Open();  // an empty session
  absl::Status Close(const std::string& id);
  absl::Status ExpectTier(const std::string& id, v1::SessionTier tier);

  void Note(const char* what, const Place& place, double milliseconds);
  absl::Status Time(const char* what, const Place& place, const Call& call);
  absl::StatusOr<int64_t> RowsInUse(const Place& place);
  absl::Status MeasureForks(const Place& place, bool many);
  absl::Status MeasurePast(const Place& place);
  absl::Status MeasureBlob(const Place& place);
  absl::Status MeasureMemory(const Place& place);
  absl::Status MeasureDisk(const Place& place);

  client::Client& client_;
  const int32_t vocab_size_;
  std::mt19937 random_{1};
  std::vector<Place> places_;
  std::map<std::string, std::map<int64_t, std::vector<double>>> times_;
};

}  // namespace gma::bench

#endif  // GMA_TESTS_BENCH_SESSION_FIGURES_H_
