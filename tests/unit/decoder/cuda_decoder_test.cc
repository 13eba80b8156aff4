// The cuda decoder against gma_torch and the cpu decoder, and its promise of equal bits: on a GPU,
// and in cuda_decoder_emulated_test on the CPU.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/decoder/decoders.h"
#include "model/state/state_pool.h"
#include "tests/golden/golden_case.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using testing::GoldenCase;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

constexpr double kLogitTolerance = 1e-4, kBFloat16Tolerance = 2e-2;  // of the largest logit
// The emulator is slow, so a golden case is not read to its end.
constexpr int64_t kGoldenTokens = 70;
constexpr int32_t kRows = 5;

DecoderOptions Options(const std::string& weights, bool deterministic = false) {
  return {.weights = weights,
          .max_batch_rows = kRows + 2,
          .max_step_tokens = 64,
          .deterministic = deterministic};
}

class CudaDecoderTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU";
    Open("everything", Options("f32"));
  }

  void Open(const std::string& name, const DecoderOptions& options) {
    pool_.reset();
    decoder_.reset();
    GMA_ASSERT_OK_AND_ASSIGN(GoldenCase golden, GoldenCase::Open(name));
    golden_ = std::make_unique<GoldenCase>(std::move(golden));
    GMA_ASSERT_OK_AND_ASSIGN(decoder_, LoadCudaDecoder(golden_->model, options));
    GMA_ASSERT_OK_AND_ASSIGN(
        pool_, StatePool::Create(decoder_->state_layout(), kRows, decoder_->row_memory()));
    logits_.resize(static_cast<size_t>(options.max_batch_rows) * vocab());
  }

  size_t vocab() const { return static_cast<size_t>(decoder_->vocab_size()); }
  absl::Span<const int32_t> tokens() const { return golden_->tokens; }
  StateRow Row() {
    absl::StatusOr<StateRow> row = pool_->Acquire();
    EXPECT_THAT(row, IsOk());
    return *std::move(row);
  }
  absl::Status Step(const std::vector<StepRow>& rows) {
    return decoder_->Step({rows}, *pool_, absl::MakeSpan(logits_));
  }
  absl::Span<const float> Logits(size_t row = 0) const {
    return absl::MakeConstSpan(logits_).subspan(row * vocab(), vocab());
  }
  // Reads golden tokens from `begin` on, in parts of 1 to 20, and compares where logits are known.
  void ExpectGolden(const StateRow& row, int64_t begin, double tolerance) {
    std::mt19937 random(3);
    size_t compared = 0;
    for (size_t next = 0; next < golden_->positions.size(); ++next) {
      const int64_t end = golden_->positions[next] + 1;
      if (end <= begin || end > kGoldenTokens) continue;
      while (begin < end) {
        const int64_t count = std::min<int64_t>(1 + random() % 20, end - begin);
        ASSERT_THAT(Step({{row.index(), tokens().subspan(begin, count), true}}), IsOk());
        begin += count;
      }
      EXPECT_LT(golden_->LogitError(next, Logits()), tolerance) << "after token " << end - 1;
      ++compared;
    }
    EXPECT_GE(compared, 2u);
  }

  std::unique_ptr<GoldenCase> golden_;
  std::unique_ptr<CompiledDecoder> decoder_;
  std::unique_ptr<StatePool> pool_;
  std::vector<float> logits_;
};

using CudaGoldenTest = CudaDecoderTest;

TEST_P(CudaGoldenTest, AgreesInFloat32AndNearlyInBFloat16) {
  for (const char* weights : {"f32", "bf16"}) {
    SCOPED_TRACE(weights);
    Open(GetParam(), Options(weights));
    ExpectGolden(Row(), 0, weights[0] == 'f' ? kLogitTolerance : kBFloat16Tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaGoldenTest, ::testing::ValuesIn(testing::GoldenCaseNames()));

// A row of the cpu decoder, taken over in the middle, and back.
TEST_F(CudaDecoderTest, ARowMovesBetweenTheHostAndTheDevice) {
  GMA_ASSERT_OK_AND_ASSIGN(const auto cpu,
                           CompiledDecoder::Load(golden_->model, {.weights = "f32", .threads = 1}));
  GMA_ASSERT_OK_AND_ASSIGN(const auto host, StatePool::Create(cpu->state_layout(), 1));
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow there, host->Acquire());
  std::vector<float> logits(vocab());
  const auto on_host = [&](size_t begin, size_t count) {
    const StepRow step[] = {{there.index(), tokens().subspan(begin, count), true}};
    ASSERT_THAT(cpu->Step({step}, *host, absl::MakeSpan(logits)), IsOk());
  };
  on_host(0, 40);
  const StateRow row = Row();
  row.Write(there.bytes());
  ASSERT_THAT(Step({{row.index(), tokens().subspan(40, 30), true}}), IsOk());
  there.Write(row.view().Copy());
  on_host(70, 20);
  ASSERT_THAT(Step({{row.index(), tokens().subspan(70, 20), true}}), IsOk());
  const float largest = *std::max_element(logits.begin(), logits.end());
  for (size_t i = 0; i < vocab(); ++i) EXPECT_NEAR(logits_[i], logits[i], 1e-4 * largest);
}

TEST_F(CudaDecoderTest, AForkGoesOnAsItsOriginal) {
  const StateRow row = Row();
  ASSERT_THAT(Step({{row.index(), tokens().first(20), false}}), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow fork, pool_->AcquireCopy(row));
  ASSERT_THAT(Step({{row.index(), tokens().subspan(20, 12), true},
                    {fork.index(), tokens().subspan(20, 12), true}}),
              IsOk());
  EXPECT_EQ(Logits(0), Logits(1));
  EXPECT_EQ(row.view().Copy(), fork.view().Copy());
}

TEST_F(CudaDecoderTest, TheNextTenantOfARowSeesNothingOfTheLast) {
  StateRow row = Row();
  ASSERT_THAT(Step({{row.index(), tokens().first(9), false}}), IsOk());
  const int32_t index = row.index();
  row.Release();
  row = Row();
  EXPECT_EQ(row.index(), index);
  EXPECT_EQ(row.view().Copy(), RowBytes(pool_->row_bytes()));
}

TEST_F(CudaDecoderTest, PaddingChangesNothing) {
  const StateRow alone = Row(), beside = Row();
  const int32_t scratch = pool_->scratch_row();
  ASSERT_THAT(Step({{alone.index(), tokens().first(1), true}}), IsOk());
  const std::vector<float> expected(Logits().begin(), Logits().end());
  ASSERT_THAT(Step({{scratch, tokens().subspan(5, 1), true},
                    {beside.index(), tokens().first(1), true},
                    {scratch, tokens().subspan(7, 1), true}}),
              IsOk());
  EXPECT_EQ(Logits(1), absl::MakeConstSpan(expected));
  EXPECT_EQ(beside.view().Copy(), alone.view().Copy());
}

// Requests in random batches, cut anywhere, have the bits that they have alone, token by token.
TEST_F(CudaDecoderTest, ADeterministicOneHasTheSameBitsInEverySchedule) {
  constexpr int32_t kTokens = 16;
  for (const char* weights : {"f32", "bf16"}) {
    Open("everything", Options(weights, /*deterministic=*/true));
    std::vector<std::vector<float>> alone;  // after each token of each request
    std::vector<RowBytes> states;
    const auto token = [&](int32_t request, int32_t i) {
      return tokens().subspan(static_cast<size_t>(request * kTokens + i), 1);
    };
    for (int32_t request = 0; request < kRows; ++request) {
      const StateRow row = Row();
      for (int32_t i = 0; i < kTokens; ++i) {
        ASSERT_THAT(Step({{row.index(), token(request, i), true}}), IsOk());
        alone.emplace_back(Logits().begin(), Logits().end());
      }
      states.push_back(row.view().Copy());
    }
    for (uint32_t seed = 0; seed < 3; ++seed) {
      std::mt19937 random(seed);
      std::vector<StateRow> rows(kRows);
      int32_t fed[kRows] = {};
      for (StateRow& row : rows) row = Row();
      while (*std::min_element(fed, fed + kRows) < kTokens) {
        std::vector<StepRow> step;
        std::vector<int32_t> who;
        for (int32_t request = 0; request < kRows; ++request) {
          if (fed[request] == kTokens || random() % 3 == 0) continue;
          const int32_t count =
              1 + static_cast<int32_t>(random() % std::min<uint32_t>(kTokens - fed[request], 10));
          step.push_back({rows[request].index(),
                          {token(request, fed[request]).data(), static_cast<size_t>(count)},
                          true});
          fed[request] += count;
          who.push_back(request);
        }
        ASSERT_THAT(Step(step), IsOk());
        for (size_t i = 0; i < who.size(); ++i) {
          ASSERT_EQ(Logits(i), absl::MakeConstSpan(alone[who[i] * kTokens + fed[who[i]] - 1]));
        }
      }
      for (int32_t request = 0; request < kRows; ++request) {
        ASSERT_EQ(rows[request].view().Copy(), states[request]) << "request " << request;
      }
    }
  }
}

// Steps of one token a row are graphs from their second time on, for any rows, and change nothing.
TEST_F(CudaDecoderTest, AGraphDoesWhatItsKernelsDo) {
  std::vector<std::vector<float>> seen[2];
  std::vector<RowBytes> states[2];
  for (const bool eager : {true, false}) {
    DecoderOptions options = Options("bf16", /*deterministic=*/true);
    options.eager = eager;
    Open("everything", options);
    int graphs = 0;
    std::vector<StateRow> rows(kRows);
    for (StateRow& row : rows) row = Row();
    std::mt19937 random(5);
    for (int32_t i = 0; i < 12; ++i) {
      std::shuffle(rows.begin(), rows.end(), random);
      std::vector<StepRow> step;
      for (size_t j = 0; j < 1 + static_cast<size_t>(i % kRows); ++j) {
        step.push_back({rows[j].index(), tokens().subspan(random() % 500, 1), true});
      }
      ASSERT_THAT(Step(step), IsOk());
      graphs += decoder_->ran_graph();
      for (size_t j = 0; j < step.size(); ++j) {
        seen[eager].emplace_back(Logits(j).begin(), Logits(j).end());
      }
    }
    for (const StateRow& row : rows) states[eager].push_back(row.view().Copy());
    EXPECT_EQ(graphs, eager ? 0 : 8) << "of rows 1, 2, 4 and 5 to 8 the first is none";
  }
  EXPECT_EQ(seen[true], seen[false]);
  EXPECT_EQ(states[true], states[false]);
}

TEST_F(CudaDecoderTest, AGraphIsOfItsPool) {
  GMA_ASSERT_OK_AND_ASSIGN(
      auto pool, StatePool::Create(decoder_->state_layout(), kRows, decoder_->row_memory()));
  RowBytes states[2];
  for (RowBytes& state : states) {
    const StateRow row = Row();
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_THAT(Step({{row.index(), tokens().subspan(i, 1), true}}), IsOk());
    }
    EXPECT_TRUE(decoder_->ran_graph());
    state = row.view().Copy();
    pool_.swap(pool);
  }
  EXPECT_EQ(states[0], states[1]);
}

TEST_F(CudaDecoderTest, APoolThatDoesNotFitNamesTheBytes) {
  EXPECT_THAT(StatePool::Create(decoder_->state_layout(), 2'000'000'000, decoder_->row_memory()),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("bytes of device memory"), HasSubstr("are free"),
                             HasSubstr("2000000000 rows"))));
}

#ifdef GMA_CUDA_EMULATED
TEST_F(CudaDecoderTest, ADeviceThatIsLostEndsTheProcess) {
  const StateRow row = Row();
  const auto lose = [] { cuda_emulator::lost = cudaErrorInvalidValue; };
  EXPECT_DEATH((lose(), Step({{row.index(), tokens().first(1), true}})), "device_lost");
  EXPECT_DEATH((lose(), row.view().Copy()), "device_lost");
  EXPECT_DEATH((lose(), row.Clear()), "device_lost");
}
#endif

}  // namespace
}  // namespace gma
