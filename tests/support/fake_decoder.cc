#include "tests/support/fake_decoder.h"

#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"

namespace gma::testing {
namespace {

// SplitMix64's finaliser: every bit of the input reaches every bit of the output.
uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// The smallest model that has a state row.
StateLayout TinyLayout() {
  ModelConfig config{};
  config.vocab_size = kFakeVocab;
  config.hidden_size = 8;
  config.num_layers = 1;
  config.num_attention_heads = 1;
  config.num_memory_heads = 1;
  config.head_dim = 4;
  config.num_components = 2;
  config.routing_dim = 2;
  config.intermediate_size = 8;
  config.layers = {MixerOptions{}};
  absl::StatusOr<StateLayout> layout = StateLayout::Create(config, /*compensated=*/false);
  GMA_CHECK(layout.ok() && layout->row_bytes() >= sizeof(FakeState));
  return *std::move(layout);
}

class FarMemory final : public RowMemory {
 public:
  bool on_host() const override { return false; }
  absl::StatusOr<uint8_t*> Allocate(size_t bytes) override { return host_.Allocate(bytes); }
  void Free(uint8_t* data, size_t bytes) override { host_.Free(data, bytes); }
  void Fill(uint8_t* to, uint8_t byte, size_t bytes) override { host_.Fill(to, byte, bytes); }
  void Copy(uint8_t* to, const uint8_t* from, size_t bytes) override {
    host_.Copy(to, from, bytes);
  }
  void Read(uint8_t* host, const uint8_t* from, size_t bytes) override {
    host_.Read(host, from, bytes);
  }
  void Write(uint8_t* to, const uint8_t* host, size_t bytes) override {
    host_.Write(to, host, bytes);
  }

 private:
  RowMemory& host_ = RowMemory::Host();
};

uint8_t* RowAt(const StatePool& pool, int32_t state_row) {
  return pool.data() + static_cast<size_t>(state_row) * pool.row_bytes();
}

}  // namespace

void FakeState::Feed(int32_t token) {
  hash = Mix(hash ^ Mix(static_cast<uint64_t>(token) + 1));
  ++position;
}

int32_t FakeState::NextToken() const { return static_cast<int32_t>(hash % kFakeVocab); }

void FakeState::Logits(absl::Span<float> logits) const {
  GMA_CHECK(logits.size() == kFakeVocab);
  uint64_t bits = hash;
  for (float& logit : logits) {
    bits = Mix(bits);
    logit = static_cast<float>(bits % 1024) / 512.0f;  // [0, 2)
  }
  logits[static_cast<size_t>(NextToken())] = 4.0f;
}

std::string_view FakeTokenText(int32_t token) {
  static constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghij";
  GMA_CHECK(token >= 0 && token < kFakeVocab);
  if (token == kFakeEndToken) return {};
  return kLetters.substr(static_cast<size_t>(token), token % 7 == 0 ? 2 : 1);
}

FakeDecoder::FakeDecoder(int32_t max_batch_rows, int32_t max_step_tokens)
    : max_batch_rows_(max_batch_rows), max_step_tokens_(max_step_tokens), layout_(TinyLayout()) {}

RowMemory& FakeDecoder::row_memory() {
  static FarMemory far;
  return far;
}

FakeState FakeDecoder::StateOf(const StatePool& pool, int32_t state_row) {
  FakeState state;
  std::memcpy(&state, RowAt(pool, state_row), sizeof(state));
  return state;
}

absl::Status FakeDecoder::Step(const StepBatch& batch, StatePool& pool, absl::Span<float> logits) {
  if (on_step_) on_step_(batch);
  ++steps_;
  GMA_CHECK(!batch.rows.empty() && batch.rows.size() <= static_cast<size_t>(max_batch_rows_));
  last_rows_.clear();
  std::set<int32_t> distinct;
  size_t tokens = 0, drawn = 0;
  for (const StepRow& row : batch.rows) {
    GMA_CHECK(row.state_row >= 0 && row.state_row < pool.capacity());
    GMA_CHECK(distinct.insert(row.state_row).second);
    GMA_CHECK(!row.tokens.empty());
    last_rows_.push_back(row.state_row);
    tokens += row.tokens.size();
    drawn += row.want_logits ? 1 : 0;
  }
  GMA_CHECK(tokens <= static_cast<size_t>(max_step_tokens_));
  GMA_CHECK(logits.size() == drawn * kFakeVocab);
  const bool fail = std::exchange(fail_next_, false);
  for (const StepRow& row : batch.rows) {
    FakeState state = StateOf(pool, row.state_row);
    for (int32_t token : row.tokens) {
      GMA_CHECK(token >= 0 && token < kFakeVocab);
      state.Feed(token);
    }
    if (fail) state.hash = Mix(~state.hash);
    std::memcpy(RowAt(pool, row.state_row), &state, sizeof(state));
    if (fail || !row.want_logits) continue;
    state.Logits(logits.first(kFakeVocab));
    if (nan_rows_.erase(row.state_row) > 0) logits[7] = std::numeric_limits<float>::quiet_NaN();
    logits.remove_prefix(kFakeVocab);
  }
  if (fail) return absl::InternalError("injected step fault");
  tokens_fed_ += static_cast<int64_t>(tokens);
  return absl::OkStatus();
}

}  // namespace gma::testing
