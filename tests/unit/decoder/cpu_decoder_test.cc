// The promises of the cpu decoder: the same bits whatever runs beside, and no allocation in Step.
// Its numbers are held against gma_torch in tests/golden.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/state/state_pool.h"
#include "tests/support/allocation_counter.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;

constexpr int32_t kRequests = 64, kTokens = 40;  // longer than the windows of two of the models
constexpr int32_t kMaxStepTokens = 160;
constexpr int32_t kSchedules = 1000;  // of each model and format

std::unique_ptr<ModelDir> Open(const std::string& golden) {
  absl::StatusOr<ModelDir> model =
      ModelDir::Open(std::string(GMA_SOURCE_DIR) + "/tests/golden/" + golden, {});
  EXPECT_THAT(model, IsOk());
  return std::make_unique<ModelDir>(*std::move(model));
}

DecoderOptions Options(const std::string& weights, int32_t threads) {
  return {.weights = weights,
          .max_batch_rows = kRequests,
          .max_step_tokens = kMaxStepTokens,
          .threads = threads};
}

struct Setup {
  std::string model, weights;
};

class CpuDecoderTest : public ::testing::TestWithParam<Setup> {
 protected:
  struct Bench {
    std::unique_ptr<CompiledDecoder> decoder;
    std::unique_ptr<StatePool> pool;
  };

  void SetUp() override {
    model_ = Open(GetParam().model);
    for (const int32_t threads : {1, 2}) {
      Bench bench;
      GMA_ASSERT_OK_AND_ASSIGN(
          bench.decoder, CompiledDecoder::Load(*model_, Options(GetParam().weights, threads)));
      GMA_ASSERT_OK_AND_ASSIGN(bench.pool,
                               StatePool::Create(bench.decoder->state_layout(), kRequests));
      benches_.push_back(std::move(bench));
    }
    vocab_ = static_cast<size_t>(benches_[0].decoder->vocab_size());
    std::mt19937 random(7);
    for (int32_t request = 0; request < kRequests; ++request) {
      for (int32_t i = 0; i < kTokens; ++i) {
        tokens_[request].push_back(static_cast<int32_t>(random() % vocab_));
      }
    }
  }

  // Each request alone, a token at a time on one thread.
  void RunAlone() {
    const Bench& bench = benches_[0];
    for (int32_t request = 0; request < kRequests; ++request) {
      GMA_ASSERT_OK_AND_ASSIGN(const StateRow row, bench.pool->Acquire());
      alone_[request].resize(kTokens * vocab_);
      for (int32_t i = 0; i < kTokens; ++i) {
        const StepRow step[] = {{row.index(), absl::MakeConstSpan(&tokens_[request][i], 1), true}};
        ASSERT_THAT(bench.decoder->Step({step}, *bench.pool,
                                        absl::MakeSpan(&alone_[request][i * vocab_], vocab_)),
                    IsOk());
      }
      states_[request].assign(row.bytes().begin(), row.bytes().end());
    }
  }

  void RunSchedule(uint32_t seed);

  std::unique_ptr<ModelDir> model_;
  std::vector<Bench> benches_;
  size_t vocab_ = 0;
  std::vector<int32_t> tokens_[kRequests];
  std::vector<float> alone_[kRequests];     // [kTokens, vocab]
  std::vector<uint8_t> states_[kRequests];  // after all tokens
};

// Some of the requests, in any order, each cut anywhere, with any neighbours, on one thread or two.
void CpuDecoderTest::RunSchedule(uint32_t seed) {
  std::mt19937 random(seed);
  const Bench& bench = benches_[random() % 2];
  struct Live {
    int32_t request, fed;
    StateRow row;
  };
  std::vector<int32_t> order(kRequests);
  for (int32_t i = 0; i < kRequests; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  order.resize(1 + random() % (random() % 2 == 0 ? 8 : kRequests));
  const int32_t longest = 1 << random() % 6;  // of a part of a prompt
  std::vector<Live> live;
  std::vector<float> logits(kRequests * vocab_);
  while (!order.empty() || !live.empty()) {
    while (!order.empty() && (live.empty() || random() % 3 != 0)) {
      GMA_ASSERT_OK_AND_ASSIGN(StateRow row, bench.pool->Acquire());
      live.push_back({order.back(), 0, std::move(row)});
      order.pop_back();
    }
    std::shuffle(live.begin(), live.end(), random);
    std::vector<StepRow> step;
    std::vector<Live*> wanted;
    int32_t room = kMaxStepTokens;
    for (Live& part : live) {
      if (random() % 4 == 0 || room == 0) continue;
      const int32_t most = std::min({kTokens - part.fed, longest, room});
      const int32_t count = 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(most));
      const bool want = random() % 2 == 0;
      step.push_back(
          {part.row.index(),
           absl::MakeConstSpan(&tokens_[part.request][part.fed], static_cast<size_t>(count)),
           want});
      part.fed += count;
      room -= count;
      if (want) wanted.push_back(&part);
    }
    ASSERT_THAT(bench.decoder->Step({step}, *bench.pool, absl::MakeSpan(logits)), IsOk());
    for (size_t i = 0; i < wanted.size(); ++i) {
      const float* expected = &alone_[wanted[i]->request][(wanted[i]->fed - 1) * vocab_];
      ASSERT_EQ(std::memcmp(&logits[i * vocab_], expected, vocab_ * sizeof(float)), 0)
          << "logits of request " << wanted[i]->request << " after token " << wanted[i]->fed;
    }
    for (const Live& part : live) {
      if (part.fed < kTokens) continue;
      ASSERT_TRUE(std::equal(part.row.bytes().begin(), part.row.bytes().end(),
                             states_[part.request].begin()))
          << "state of request " << part.request;
    }
    std::erase_if(live, [](const Live& part) { return part.fed == kTokens; });
  }
}

TEST_P(CpuDecoderTest, ARequestHasTheSameBitsInEverySchedule) {
  RunAlone();
  for (uint32_t seed = 0; seed < kSchedules && !HasFailure(); ++seed) {
    SCOPED_TRACE("schedule " + std::to_string(seed));
    RunSchedule(seed);
  }
}

// So long that the mixer cuts it into pieces, which several threads take.
TEST_P(CpuDecoderTest, ALongPromptHasTheBitsOfItsTokensOneByOne) {
  std::vector<int32_t> prompt;
  for (int32_t request = 0; request < 4; ++request) {
    prompt.insert(prompt.end(), tokens_[request].begin(), tokens_[request].end());
  }
  ASSERT_EQ(prompt.size(), size_t{kMaxStepTokens});
  std::vector<float> expected(vocab_), logits(vocab_);
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow alone, benches_[0].pool->Acquire());
  for (const int32_t& token : prompt) {
    const StepRow step[] = {{alone.index(), absl::MakeConstSpan(&token, 1), true}};
    ASSERT_THAT(benches_[0].decoder->Step({step}, *benches_[0].pool, absl::MakeSpan(expected)),
                IsOk());
  }
  for (const Bench& bench : benches_) {
    GMA_ASSERT_OK_AND_ASSIGN(const StateRow row, bench.pool->Acquire());
    const StepRow step[] = {{row.index(), prompt, true}};
    ASSERT_THAT(bench.decoder->Step({step}, *bench.pool, absl::MakeSpan(logits)), IsOk());
    EXPECT_EQ(std::memcmp(logits.data(), expected.data(), vocab_ * sizeof(float)), 0);
    EXPECT_TRUE(std::equal(row.bytes().begin(), row.bytes().end(), alone.bytes().begin()));
  }
}

TEST_P(CpuDecoderTest, AStepAllocatesNothing) {
#ifdef GMA_NO_ALLOCATION_COUNTER
  GTEST_SKIP() << "the sanitizers count for themselves";
#endif
  std::vector<float> logits(kRequests * vocab_);
  for (const Bench& bench : benches_) {
    std::vector<StateRow> rows;
    std::vector<StepRow> prompt, decode;
    for (int32_t request = 0; request < kRequests; ++request) {
      GMA_ASSERT_OK_AND_ASSIGN(StateRow row, bench.pool->Acquire());
      const absl::Span<const int32_t> tokens = tokens_[request];
      if (request < 3) prompt.push_back({row.index(), tokens, true});
      decode.push_back({row.index(), tokens.first(1), true});
      rows.push_back(std::move(row));
    }
    prompt.push_back({bench.pool->scratch_row(), absl::MakeConstSpan(tokens_[3]), false});
    bool ok = true;
    const testing::AllocationCounter counter;
    for (int32_t i = 0; i < 3; ++i) {
      ok &= bench.decoder->Step({prompt}, *bench.pool, absl::MakeSpan(logits)).ok();
      ok &= bench.decoder->Step({decode}, *bench.pool, absl::MakeSpan(logits)).ok();
    }
    EXPECT_EQ(counter.count(), 0);
    EXPECT_TRUE(ok);
    rows.clear();
    const testing::AllocationCounter another;
    rows.shrink_to_fit();
    rows.reserve(100);
    EXPECT_GE(another.count(), 1) << "the counter counts";
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CpuDecoderTest,
                         ::testing::Values(Setup{"everything", "f32"}, Setup{"everything", "bf16"},
                                           Setup{"everything", "int8"}, Setup{"everything", "int4"},
                                           Setup{"converted", "int8"},
                                           Setup{"from_scratch", "int4"}),
                         [](const auto& test) {
                           return test.param.model + "_" + test.param.weights;
                         });

}  // namespace
}  // namespace gma
