#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "model/state/state_pool.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

DecoderOptions Reference() { return {.decoder = "reference", .weights = "f32", .threads = 2}; }

class ReferenceDecoderTest : public ::testing::Test {
 protected:
  void SetUp() override { Open("everything"); }

  void Open(const std::string& name, const DecoderOptions& options = Reference()) {
    pool_.reset();
    decoder_.reset();
    GMA_ASSERT_OK_AND_ASSIGN(
        ModelDir model, ModelDir::Open(std::string(GMA_SOURCE_DIR) + "/tests/golden/" + name, {}));
    model_ = std::make_unique<ModelDir>(std::move(model));
    GMA_ASSERT_OK_AND_ASSIGN(decoder_, CompiledDecoder::Load(*model_, options));
    GMA_ASSERT_OK_AND_ASSIGN(pool_, StatePool::Create(decoder_->state_layout(), 4));
  }

  // Feeds a fresh row and returns the logits of its last token; the row's bytes go to `state`.
  std::vector<float> Feed(const std::vector<int32_t>& tokens,
                          std::vector<uint8_t>* state = nullptr) {
    absl::StatusOr<StateRow> row = pool_->Acquire();
    EXPECT_THAT(row, IsOk());
    std::vector<float> logits(decoder_->vocab_size());
    const StepRow step[] = {{row->index(), tokens, true}};
    EXPECT_THAT(decoder_->Step({step}, *pool_, absl::MakeSpan(logits)), IsOk());
    if (state != nullptr) state->assign(row->bytes().begin(), row->bytes().end());
    return logits;
  }

  static std::vector<int32_t> Tokens(int32_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t i = 0; i < count; ++i) tokens[i] = (i * 37 + 11) % 128;
    return tokens;
  }

  std::unique_ptr<ModelDir> model_;
  std::unique_ptr<CompiledDecoder> decoder_;
  std::unique_ptr<StatePool> pool_;
};

TEST_F(ReferenceDecoderTest, RefusesOptionsByNameAndValue) {
  const auto load = [this](const DecoderOptions& options) {
    return CompiledDecoder::Load(*model_, options).status();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(load({.device = "tpu"}),
              StatusIs(kInvalid, AllOf(HasSubstr("device is \"tpu\""), HasSubstr("\"cpu\""))));
  EXPECT_THAT(load({.decoder = "fast"}), StatusIs(kInvalid, AllOf(HasSubstr("decoder is \"fast\""),
                                                                  HasSubstr("\"reference\""))));
  EXPECT_THAT(load({.weights = "int2"}),
              StatusIs(kInvalid, AllOf(HasSubstr("weights is \"int2\""), HasSubstr("\"int4\""))));
  EXPECT_THAT(load({.decoder = "reference", .weights = "int4"}),
              StatusIs(kInvalid, AllOf(HasSubstr("weights is \"int4\""), HasSubstr("\"bf16\""))));
  EXPECT_THAT(load({.max_batch_rows = 0}), StatusIs(kInvalid, HasSubstr("max_batch_rows is 0")));
  EXPECT_THAT(load({.max_step_tokens = -5}),
              StatusIs(kInvalid, HasSubstr("max_step_tokens is -5")));
  EXPECT_THAT(load({.threads = -1}), StatusIs(kInvalid, HasSubstr("threads is -1")));
}

TEST_F(ReferenceDecoderTest, CountsTheTokensInTheRow) {
  std::vector<uint8_t> state;
  Feed(Tokens(23), &state);
  int64_t position = 0;
  std::memcpy(&position, state.data(), sizeof(position));
  EXPECT_EQ(position, 23);
}

TEST_F(ReferenceDecoderTest, LogitsStandInTheOrderOfTheRowsThatWantThem) {
  const std::vector<int32_t> a = Tokens(9), b = {5, 6, 7}, c = {8};
  const std::vector<float> alone_a = Feed(a), alone_c = Feed(c);
  const int32_t vocab = decoder_->vocab_size();
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow row_a, pool_->Acquire());
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow row_b, pool_->Acquire());
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow row_c, pool_->Acquire());
  std::vector<float> logits(2 * vocab + 1, -7);
  const StepRow step[] = {
      {row_c.index(), c, true}, {row_b.index(), b, false}, {row_a.index(), a, true}};
  ASSERT_THAT(decoder_->Step({step}, *pool_, absl::MakeSpan(logits)), IsOk());
  for (int32_t i = 0; i < vocab; ++i) {
    EXPECT_NEAR(logits[i], alone_c[i], 1e-4);
    EXPECT_NEAR(logits[vocab + i], alone_a[i], 1e-4);
  }
  EXPECT_EQ(logits[2 * vocab], -7);
}

TEST_F(ReferenceDecoderTest, NobodyNeedsToWantLogits) {
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow row, pool_->Acquire());
  const std::vector<int32_t> tokens = Tokens(4);
  const StepRow step[] = {{row.index(), tokens, false}};
  EXPECT_THAT(decoder_->Step({step}, *pool_, {}), IsOk());
  EXPECT_THAT(decoder_->Step({}, *pool_, {}), IsOk());
}

TEST_F(ReferenceDecoderTest, PaddingChangesNoRow) {
  GMA_ASSERT_OK_AND_ASSIGN(const StateRow row, pool_->Acquire());
  const std::vector<int32_t> tokens = Tokens(40);
  std::vector<float> logits(decoder_->vocab_size());
  const StepRow feed[] = {{row.index(), tokens, false}};
  ASSERT_THAT(decoder_->Step({feed}, *pool_, {}), IsOk());
  const std::vector<uint8_t> before(row.bytes().begin(), row.bytes().end());
  const int32_t scratch = pool_->scratch_row();
  const StepRow padding[] = {{scratch, tokens, false}, {scratch, tokens, true}};
  ASSERT_THAT(decoder_->Step({padding}, *pool_, absl::MakeSpan(logits)), IsOk());
  EXPECT_TRUE(std::equal(before.begin(), before.end(), row.bytes().begin()));
}

// The memory itself, whatever the matrix products of a library do.
TEST_F(ReferenceDecoderTest, ThreadsChangeResultsWithinRoundingOnly) {
  const std::vector<float> two = Feed(Tokens(100));
  DecoderOptions options = Reference();
  options.threads = 1;
  Open("everything", options);
  const std::vector<float> one = Feed(Tokens(100));
  for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(one[i], two[i], 1e-4);
}

TEST_F(ReferenceDecoderTest, CompensatedStateGivesTheSameLogits) {
  const std::vector<float> plain = Feed(Tokens(200));
  const size_t row_bytes = decoder_->state_layout().row_bytes();
  DecoderOptions options = Reference();
  options.compensated_state = true;
  Open("everything", options);
  EXPECT_GT(decoder_->state_layout().row_bytes(), row_bytes);
  const std::vector<float> compensated = Feed(Tokens(200));
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(plain[i], compensated[i], 1e-4);
}

TEST_F(ReferenceDecoderTest, Bfloat16ProjectionsAreCloseToFloat32) {
  for (const char* name : {"everything", "bfloat16"}) {
    Open(name);
    const std::vector<float> wide = Feed(Tokens(30));
    DecoderOptions options = Reference();
    options.weights = "bf16";
    Open(name, options);
    const std::vector<float> narrow = Feed(Tokens(30));
    double difference = 0, size = 0;
    for (size_t i = 0; i < wide.size(); ++i) {
      difference += std::pow(wide[i] - narrow[i], 2);
      size += std::pow(wide[i], 2);
    }
    EXPECT_LT(std::sqrt(difference / size), 0.05) << name;
    EXPECT_GT(difference, 0) << name << ": the option changed nothing";
  }
}

using ReferenceDecoderDeathTest = ReferenceDecoderTest;

TEST_F(ReferenceDecoderDeathTest, ChecksWhatTheEngineMustNotSend) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  std::vector<float> logits(decoder_->vocab_size());
  const auto step = [&](const std::vector<StepRow>& rows) {
    (void)decoder_->Step({rows}, *pool_, absl::MakeSpan(logits));
  };
  const std::vector<int32_t> good = {1}, bad = {128}, none, many(513, 1);
  EXPECT_DEATH(step({{0, bad, false}}), "vocab_size");
  EXPECT_DEATH(step({{0, none, false}}), "empty");
  EXPECT_DEATH(step({{0, many, false}}), "max_step_tokens");
  EXPECT_DEATH(step({{9, good, false}}), "scratch_row");
  EXPECT_DEATH(step({{1, good, false}, {1, good, false}}), "adjacent_find");
  EXPECT_DEATH(step({{0, good, true}, {1, good, true}}), "logits.size");
}

}  // namespace
}  // namespace gma
