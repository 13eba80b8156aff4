#include "model/decoder/mixer_constants.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::testing::ElementsAre;

ModelDir OpenGolden(const std::string& name) {
  absl::StatusOr<ModelDir> model =
      ModelDir::Open(std::string(GMA_SOURCE_DIR) + "/tests/golden/" + name, {});
  EXPECT_THAT(model, testing::IsOk());
  return *std::move(model);
}

TEST(ToFloats, WidensBfloat16Exactly) {
  const uint16_t bits[] = {0x3f80, 0xc000, 0x0000, 0x4049};
  const TensorView view = {
      TensorType::kBFloat16,
      {4},
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bits), sizeof(bits))};
  EXPECT_THAT(ToFloats(view), ElementsAre(1.0f, -2.0f, 0.0f, 3.140625f));
}

TEST(LayerMixer, PlainLayerHasNoOptionalTensors) {
  const ModelDir model = OpenGolden("plain");
  const LayerMixer mixer(model, 0);
  const MixerConstants& constants = mixer.constants();
  EXPECT_EQ(constants.window, 0);
  EXPECT_EQ(constants.conv_width, 0);
  EXPECT_FALSE(constants.adapted || constants.forget_head || constants.forget_write);
  EXPECT_EQ(constants.conv_weight, nullptr);
  EXPECT_EQ(constants.route_q_norm, nullptr);
  EXPECT_EQ(constants.route_k_norm, nullptr);
  EXPECT_EQ(constants.out_norm, nullptr);
  EXPECT_EQ(constants.slot_bias, nullptr);
  EXPECT_EQ(constants.slot_scale, nullptr);
  EXPECT_EQ(constants.forget_beta, nullptr);
}

TEST(LayerMixer, PointersSurviveAMove) {
  const ModelDir model = OpenGolden("everything");
  LayerMixer first(model, 1);
  const std::vector<float> bias(first.constants().slot_bias, first.constants().slot_bias + 32);
  const double w0 = first.constants().score_w0[3];
  const LayerMixer second = std::move(first);
  EXPECT_EQ(std::vector<float>(second.constants().slot_bias, second.constants().slot_bias + 32),
            bias);
  EXPECT_EQ(second.constants().score_w0[3], w0);
}

TEST(LayerMixer, ForgetBetaIsPositive) {
  const ModelDir model = OpenGolden("forget_write");
  const LayerMixer mixer(model, 0);
  const std::vector<float> raw = ToFloats(model.tensor("model.layers.0.mixer.forget_beta"));
  for (size_t g = 0; g < raw.size(); ++g) {
    EXPECT_NEAR(mixer.constants().forget_beta[g], std::log1p(std::exp(double{raw[g]})), 1e-12);
  }
}

TEST(LayerMixer, LogDecayIsFiniteAndNotPositiveForExtremeProjections) {
  const ModelDir model = OpenGolden("forget_head");
  const LayerMixer mixer(model, 0);
  const int32_t heads = mixer.constants().memory_heads;
  for (const float x : {-1e4f, -100.0f, 0.0f, 100.0f, 1e4f}) {
    for (int32_t g = 0; g < heads; ++g) {
      EXPECT_TRUE(std::isfinite(mixer.LogDecay(g, x)));
      EXPECT_LE(mixer.LogDecay(g, x), 0);
    }
  }
}

}  // namespace
}  // namespace gma
