// Binds both decoders to gma_torch in float64, for plain GMA and for every option.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/golden/golden_case.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::GoldenCase;
using ::gma::testing::IsOk;

constexpr double kLogitTolerance = 1e-4;  // float32, relative to the largest logit of the row
constexpr double kStateTolerance = 1e-5;  // relative to the largest number of the block

// Name of the case and of the decoder.
class GoldenTest : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void SetUp() override {
    absl::StatusOr<GoldenCase> golden = GoldenCase::Open(std::get<0>(GetParam()));
    ASSERT_THAT(golden, IsOk());
    golden_ = std::make_unique<GoldenCase>(*std::move(golden));
    const DecoderOptions options = {
        .decoder = std::get<1>(GetParam()), .weights = "f32", .threads = 2};
    GMA_ASSERT_OK_AND_ASSIGN(decoder_, CompiledDecoder::Load(golden_->model, options));
    GMA_ASSERT_OK_AND_ASSIGN(pool_, StatePool::Create(decoder_->state_layout(), 4));
    logits_.resize(4 * decoder_->vocab_size());
  }

  int32_t vocab() const { return decoder_->vocab_size(); }
  absl::Span<const int32_t> tokens() const { return golden_->tokens; }
  absl::Span<const float> Logits(int32_t row) const {
    return absl::MakeConstSpan(logits_).subspan(row * vocab(), vocab());
  }
  absl::Status Step(const std::vector<StepRow>& rows) {
    return decoder_->Step({rows}, *pool_, absl::MakeSpan(logits_));
  }
  void ExpectGoldenState(const StateRow& row) {
    std::string block;
    EXPECT_LT(golden_->StateError(row.bytes(), decoder_->state_layout(), block), kStateTolerance)
        << block;
  }

  // Ends of chunks: the known positions, and random ones between them.
  std::vector<int64_t> RandomEnds(uint32_t seed) const {
    std::mt19937 engine(seed);
    std::vector<int64_t> ends;
    for (const int64_t position : golden_->positions) ends.push_back(position + 1);
    for (int32_t i = 0; i < 12; ++i) ends.push_back(1 + engine() % tokens().size());
    ends.push_back(tokens().size());
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
    return ends;
  }

  std::unique_ptr<GoldenCase> golden_;
  std::unique_ptr<CompiledDecoder> decoder_;
  std::unique_ptr<StatePool> pool_;
  std::vector<float> logits_;
};

TEST_P(GoldenTest, TokenByToken) {
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow row, pool_->Acquire());
  size_t next = 0;
  for (size_t t = 0; t < tokens().size(); ++t) {
    ASSERT_THAT(Step({{row.index(), tokens().subspan(t, 1), true}}), IsOk());
    if (next < golden_->positions.size() && golden_->positions[next] == static_cast<int64_t>(t)) {
      EXPECT_LT(golden_->LogitError(next, Logits(0)), kLogitTolerance) << "after token " << t;
      ++next;
    }
  }
  EXPECT_EQ(next, golden_->positions.size());
  ExpectGoldenState(row);
}

TEST_P(GoldenTest, AnySplitOfThePrompt) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    GMA_ASSERT_OK_AND_ASSIGN(const StateRow row, pool_->Acquire());
    size_t next = 0;
    int64_t begin = 0;
    for (const int64_t end : RandomEnds(seed)) {
      ASSERT_THAT(Step({{row.index(), tokens().subspan(begin, end - begin), true}}), IsOk());
      if (next < golden_->positions.size() && golden_->positions[next] == end - 1) {
        EXPECT_LT(golden_->LogitError(next, Logits(0)), kLogitTolerance) << "seed " << seed;
        ++next;
      }
      begin = end;
    }
    EXPECT_EQ(next, golden_->positions.size());
    ExpectGoldenState(row);
  }
}

// A row beside another one of another length, with padding between them, is the row alone.
TEST_P(GoldenTest, RowsOfABatchDoNotTouchEachOther) {
  const std::vector<int32_t> backwards(tokens().rbegin(), tokens().rend());
  const absl::Span<const int32_t> other = absl::MakeConstSpan(backwards).first(150);
  std::vector<float> alone(vocab());
  {
    GMA_ASSERT_OK_AND_ASSIGN(const StateRow row, pool_->Acquire());
    ASSERT_THAT(Step({{row.index(), other, true}}), IsOk());
    std::copy_n(logits_.begin(), vocab(), alone.begin());
  }
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow first, pool_->Acquire());
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow second, pool_->Acquire());
  const int32_t scratch = pool_->scratch_row();
  const int32_t padding[] = {1};
  ASSERT_THAT(Step({{first.index(), tokens().first(301), true},
                    {scratch, padding, false},
                    {second.index(), other.first(149), false},
                    {scratch, padding, false}}),
              IsOk());
  const auto known = std::find(golden_->positions.begin(), golden_->positions.end(), 300);
  ASSERT_NE(known, golden_->positions.end());
  EXPECT_LT(golden_->LogitError(known - golden_->positions.begin(), Logits(0)), kLogitTolerance);

  ASSERT_THAT(Step({{scratch, padding, false},
                    {second.index(), other.subspan(149), true},
                    {first.index(), tokens().subspan(301), true}}),
              IsOk());
  const float largest = std::max(*std::max_element(alone.begin(), alone.end()),
                                 -*std::min_element(alone.begin(), alone.end()));
  for (int32_t i = 0; i < vocab(); ++i) {
    EXPECT_NEAR(Logits(0)[i], alone[i], kLogitTolerance * largest);
  }
  EXPECT_LT(golden_->LogitError(golden_->positions.size() - 1, Logits(1)), kLogitTolerance);
  ExpectGoldenState(first);
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenTest,
                         ::testing::Combine(::testing::ValuesIn(testing::GoldenCaseNames()),
                                            ::testing::Values("reference", "cpu")),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" + std::get<1>(test.param);
                         });

}  // namespace
}  // namespace gma
