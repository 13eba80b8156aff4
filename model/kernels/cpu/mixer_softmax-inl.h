// Scores, responsibilities, masses and read weights of one memory head (docs/MATH.md 2, 5.2, 6):
// rows over the K slots, padded to a multiple of 16.
#if defined(GMA_MODEL_KERNELS_CPU_MIXER_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GMA_MODEL_KERNELS_CPU_MIXER_SOFTMAX_INL_H_
#undef GMA_MODEL_KERNELS_CPU_MIXER_SOFTMAX_INL_H_
#else
#define GMA_MODEL_KERNELS_CPU_MIXER_SOFTMAX_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "model/kernels/cpu/mixer_lanes-inl.h"
#include "model/kernels/cpu/mixer_plan.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

constexpr float kNever = -std::numeric_limits<float>::infinity();  // logit of what is not read

// scores of kBlocks * 16 slots: w0 + sum over m of (w2 x_m + w1) x_m.
template <size_t kBlocks>
HWY_INLINE void ScoreBlocks(const float* table, const float* w0, const float* x, size_t routing,
                            float* scores) {
  Wide sum[kBlocks];
  GMA_UNROLL
  for (size_t b = 0; b < kBlocks; ++b) sum[b] = Load(w0 + b * kWide);
  for (size_t m = 0; m < routing; ++m) {
    const Wide x_m = Broadcast(x[m]);
    GMA_UNROLL
    for (size_t b = 0; b < kBlocks; ++b) {
      const float* entry = table + (b * routing + m) * 2 * kWide;
      sum[b] = MulAdd(MulAdd(Load(entry), x_m, Load(entry + kWide)), x_m, sum[b]);
    }
  }
  GMA_UNROLL
  for (size_t b = 0; b < kBlocks; ++b) Store(sum[b], scores + b * kWide);
}

// scores [slots] of the mixture of memory head g; -inf behind slot K.
HWY_INLINE void Scores(const MixerPlan& plan, size_t g, const float* x, float* scores) {
  const float* table = plan.score.get() + g * plan.slots * plan.routing * 2;
  const float* w0 = plan.score0.get() + g * plan.slots;
  constexpr size_t kBlocks = kNative >= 8 ? 4 : 2;
  size_t k = 0;
  for (; k + kBlocks * kWide <= plan.slots; k += kBlocks * kWide) {
    ScoreBlocks<kBlocks>(table + k * plan.routing * 2, w0 + k, x, plan.routing, scores + k);
  }
  for (; k < plan.slots; k += kWide) {
    ScoreBlocks<1>(table + k * plan.routing * 2, w0 + k, x, plan.routing, scores + k);
  }
}

HWY_INLINE float Top(const float* logits, size_t count) {
  Wide top = Load(logits);
  for (size_t k = kWide; k < count; k += kWide) top = Max(top, Load(logits + k));
  return MaxOfLanes(top);
}

// weights <- exp(logits - top), in place; their sum. `count` is a multiple of 16.
HWY_INLINE float ExpRow(float* logits, size_t count, float top) {
  const Wide wide_top = Broadcast(top);
  Wide sum = Broadcast(0);
  for (size_t k = 0; k < count; k += kWide) {
    const Wide weight = Exp(Sub(Load(logits + k), wide_top));
    Store(weight, logits + k);
    sum = Add(sum, weight);
  }
  return SumOfLanes(sum);
}

// softmax(scores) in place, numbers below 2^-100 set to 0 (docs/MATH.md 2.4).
HWY_INLINE void WriteResponsibilities(size_t slots, float* scores) {
  const Wide sum = Broadcast(ExpRow(scores, slots, Top(scores, slots)));
  const Wide flush = Broadcast(0x1p-100f);
  for (size_t k = 0; k < slots; k += kWide) {
    Store(ZeroBelow(Div(Load(scores + k), sum), flush), scores + k);
  }
}

// scores - log sum exp(scores), in place; `buffer` [slots].
HWY_INLINE void LogResponsibilities(size_t slots, float* scores, float* buffer) {
  std::memcpy(buffer, scores, slots * sizeof(float));
  const float top = Top(scores, slots);
  const Wide log_sum = Add(Broadcast(top), Log(Broadcast(ExpRow(buffer, slots, top))));
  for (size_t k = 0; k < slots; k += kWide) Store(Sub(Load(scores + k), log_sum), scores + k);
}

using DoubleTag = hn::CappedTag<double, 8>;
using HalfTag = hn::Rebind<float, DoubleTag>;
constexpr size_t kDoubles = hn::MaxLanes(DoubleTag());

// mass <- decay * mass + resp; step <- resp / mass (0 where resp is 0). Masses are float64, and so
// is the decay: an error of a float32 decay would add up over the stream (docs/MATH.md 7).
HWY_INLINE void WriteMass(const MixerPlan& plan, size_t g, float log_decay, const float* resp,
                          double* mass, float* step) {
  const DoubleTag d;
  const HalfTag half;
  const auto zero = hn::Zero(d);
  auto decay = hn::Exp(d, hn::Set(d, static_cast<double>(log_decay)));
  const auto rate = hn::Set(d, plan.forget_write ? -plan.forget_beta[g] : 0.0);
  for (size_t k = 0; k < plan.slots; k += kDoubles) {
    const auto r = hn::PromoteTo(d, hn::Load(half, resp + k));
    if (plan.forget_write) decay = hn::Exp(d, hn::Mul(rate, r));
    const auto now = hn::MulAdd(decay, hn::Load(d, mass + k), r);
    hn::Store(now, d, mass + k);
    const auto share = hn::IfThenZeroElse(hn::Eq(r, zero), hn::Div(r, now));
    hn::Store(hn::DemoteTo(half, share), half, step + k);
  }
}

// log_mass <- log(mass), -inf where it is 0; true if any is not. By exponent and mantissa, because
// a decaying mass leaves the range of float32 (a subnormal one counts as about 2^-1023).
HWY_INLINE bool LogMass(size_t slots, const double* mass, float* log_mass) {
  const DoubleTag d;
  const HalfTag half;
  const hn::RebindToUnsigned<DoubleTag> bits;
  const auto zero = hn::Zero(d);
  const auto fraction = hn::Set(bits, 0x000FFFFFFFFFFFFFull);
  const auto one = hn::Set(bits, 0x3FF0000000000000ull);
  const auto two52 = hn::Set(bits, 0x4330000000000000ull);  // 2^52, whose unit is its last bit
  const auto bias = hn::Set(d, 0x1p52 + 1023);
  const auto log2 = hn::Set(half, 0.693147180559945309f);
  bool any = false;
  for (size_t k = 0; k < slots; k += kDoubles) {
    const auto m = hn::Load(d, mass + k);
    const auto absent = hn::Eq(m, zero);
    any |= !hn::AllTrue(d, absent);
    const auto raw = hn::BitCast(bits, m);
    const auto exponent = hn::Sub(hn::BitCast(d, hn::Or(hn::ShiftRight<52>(raw), two52)), bias);
    const auto mantissa = hn::BitCast(d, hn::Or(hn::And(raw, fraction), one));
    const auto log =
        hn::MulAdd(hn::DemoteTo(half, exponent), log2, hn::Log(half, hn::DemoteTo(half, mantissa)));
    const auto never = hn::DemoteTo(half, hn::IfThenElse(absent, hn::Inf(d), zero));
    hn::Store(hn::Sub(log, never), half, log_mass + k);
  }
  return any;
}

// logits <- scale * logits + offset + bias; the last two null for none. `count`: a multiple of 16.
HWY_INLINE void Affine(float scale, const float* offset, const float* bias, size_t count,
                       float* logits) {
  const Wide wide_scale = Broadcast(scale);
  for (size_t k = 0; k < count; k += kWide) {
    Wide add = offset == nullptr ? Broadcast(0) : Load(offset + k);
    if (bias != nullptr) add = Add(add, Load(bias + k));
    Store(MulAdd(wide_scale, Load(logits + k), add), logits + k);
  }
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GMA_MODEL_KERNELS_CPU_MIXER_SOFTMAX_INL_H_
