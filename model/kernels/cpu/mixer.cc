#include "model/kernels/cpu/mixer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/mixer.cc"
#include "hwy/foreach_target.h"
// Highway wants what each target compiles behind foreach_target.h.
#include "hwy/highway.h"
#include "model/kernels/cpu/mixer_lanes-inl.h"
#include "model/kernels/cpu/mixer_passes-inl.h"
#include "model/kernels/cpu/mixer_plan.h"
#include "model/kernels/cpu/mixer_prepare-inl.h"
#include "model/kernels/cpu/mixer_rows-inl.h"
#include "model/kernels/cpu/mixer_softmax-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gma::cpu::HWY_NAMESPACE {

// What the passes over a memory head need of one token.
struct TokenView {
  Rows slots, near_keys, near_values;  // slots: values; keys v further with read "adapted"
  RowUpdate value_update, key_update;
};

// The slots take the token of `position`: masses now, means in the passes. `route` [r].
void Write(const MixerPlan& plan, const MixerState& state, int64_t position, size_t g,
           const float* route, float log_decay, const MixerScratch& scratch) {
  Scores(plan, g, route, scratch.resp);
  WriteResponsibilities(plan.slots, scratch.resp);
  WriteMass(plan, g, log_decay, scratch.resp, scratch.mass, scratch.step);
  std::memcpy(state.mass + g * plan.components, scratch.mass, plan.components * sizeof(double));
  if (state.slot_position == nullptr) return;
  double* at = state.slot_position + g * plan.components;
  for (size_t k = 0; k < plan.components; ++k) {
    at[k] += static_cast<double>(scratch.step[k]) * (static_cast<double>(position) - at[k]);
  }
}

// The token takes its place in the window; what stood there goes to old_* of `scratch`, its
// log-decay is returned.
float AdvanceWindow(const MixerPlan& plan, const MixerState& state, int64_t position, size_t g,
                    float log_decay, const MixerScratch& scratch) {
  const size_t entry =
      static_cast<size_t>(position % static_cast<int64_t>(plan.window)) * plan.memory_heads + g;
  const auto swap = [](float* kept, float* old, const float* now, size_t count) HWY_ATTR {
    std::memcpy(old, kept, count * sizeof(float));
    std::memcpy(kept, now, count * sizeof(float));
  };
  swap(state.window_key + entry * plan.width, scratch.old_key, scratch.key, plan.width);
  swap(state.window_value + entry * plan.width, scratch.old_value, scratch.value, plan.width);
  if (!plan.key_route) {
    swap(state.window_route + entry * plan.routing, scratch.old_route, scratch.route_k,
         plan.routing);
  }
  if (!plan.forget_head) return 0;
  const float old_decay = state.window_log_decay[entry];
  state.window_log_decay[entry] = log_decay;
  return old_decay;
}

// Window and masses advance by one token; what the passes have to do with the means.
TokenView Advance(const MixerPlan& plan, const MixerTokens& tokens, int64_t token,
                  const MixerState& state, size_t g, const MixerScratch& scratch) {
  const int64_t position = tokens.position + token;
  const int64_t window = static_cast<int64_t>(plan.window);
  float log_decay = plan.forget_head
                        ? tokens.log_decay[token * static_cast<int64_t>(plan.memory_heads) +
                                           static_cast<int64_t>(g)]
                        : 0.0f;
  std::memcpy(scratch.mass, state.mass + g * plan.components, plan.components * sizeof(double));
  std::memset(scratch.mass + plan.components, 0, (plan.slots - plan.components) * sizeof(double));
  const float *route = scratch.route_k, *value = scratch.value, *key = scratch.key;
  if (window > 0) {
    log_decay = AdvanceWindow(plan, state, position, g, log_decay, scratch);
    route = scratch.old_route, value = scratch.old_value, key = scratch.old_key;
  }
  const bool writes = position >= window;
  if (writes && plan.key_route) {
    KeyRoute(plan, tokens, token, g, key, scratch.plain_key, scratch.old_route);
    route = scratch.old_route;
  }
  if (writes) Write(plan, state, position - window, g, route, log_decay, scratch);
  const bool any = LogMass(plan.slots, scratch.mass, scratch.log_mass);

  const size_t begin = g * plan.components * plan.memory_dim;
  float* rest = state.compensation == nullptr ? nullptr : state.compensation + begin;
  const float* step = writes ? scratch.step : nullptr;
  TokenView view = {};
  // Without any mass there is nothing to update nor to read.
  view.slots = {state.memory + begin, plan.memory_dim, any ? plan.components : 0};
  view.value_update = {step, value, rest};
  view.key_update = {step, key, rest == nullptr ? nullptr : rest + plan.width};
  if (window > 0) {
    const size_t near = static_cast<size_t>(std::min(position + 1, window));
    const size_t stride = plan.memory_heads * plan.width;
    view.near_keys = {state.window_key + g * plan.width, stride, near};
    view.near_values = {state.window_value + g * plan.width, stride, near};
  }
  return view;
}

// DotRows and SumRows of `group` <= kMaxGroup query heads.
void DotGroup(const Rows& rows, const RowUpdate& update, size_t width, const HeadRows& query,
              float* partial, float* dots, size_t dots_stride) {
  switch (query.heads) {
    case 1:
      return DotRows<1>(rows, update, width, query, partial, dots, dots_stride);
    case 2:
      return DotRows<2>(rows, update, width, query, partial, dots, dots_stride);
    case 3:
      return DotRows<3>(rows, update, width, query, partial, dots, dots_stride);
    default:
      return DotRows<4>(rows, update, width, query, partial, dots, dots_stride);
  }
}

void SumGroup(const Rows& slots, const RowUpdate& update, const Rows& near, size_t width,
              const HeadRows& weight, size_t near_begin, const HeadRows& out) {
  switch (weight.heads) {
    case 1:
      return SumRows<1>(slots, update, near, width, weight, near_begin, out);
    case 2:
      return SumRows<2>(slots, update, near, width, weight, near_begin, out);
    case 3:
      return SumRows<3>(slots, update, near, width, weight, near_begin, out);
    default:
      return SumRows<4>(slots, update, near, width, weight, near_begin, out);
  }
}

// Weights of slots and window entries for query head j of memory head g, from the products with the
// mean keys (read "adapted") or the scores, and from the products with the window's keys.
void Weigh(const MixerPlan& plan, size_t g, size_t j, const TokenView& view,
           const MixerScratch& scratch) {
  const size_t h = g * plan.share + j;
  const size_t near = (view.near_keys.count + kWide - 1) / kWide * kWide;
  float* logits = scratch.logits + j * (plan.slots + plan.window_padded);
  float* near_logits = logits + plan.slots;
  if (view.slots.count == 0) {
    std::fill(logits, near_logits, kNever);
  } else {
    if (!plan.adapted) {
      Scores(plan, g, scratch.route_q + j * plan.routing_padded, logits);
      // Beside a window the gauge matters (docs/MATH.md 11.1).
      if (plan.window > 0) LogResponsibilities(plan.slots, logits, scratch.resp);
    }
    Affine(plan.adapted ? plan.slot_scale[h] : 1.0f, scratch.log_mass,
           plan.slot_bias ? plan.slot_bias.get() + h * plan.slots : nullptr, plan.slots, logits);
  }
  Affine(plan.near_scale, nullptr, nullptr, near, near_logits);
  std::fill(near_logits + view.near_keys.count, near_logits + near, kNever);
  const float top = Top(logits, plan.slots + near);
  // Nothing to read leaves all weights 0, which -inf - (-inf) would not.
  scratch.weight_sum[j] = ExpRow(logits, plan.slots + near, top == kNever ? 0.0f : top);
}

// One token: what the header says, in its order.
void RunToken(const MixerPlan& plan, const MixerTokens& tokens, int64_t token,
              const MixerState& state, size_t g, const MixerScratch& scratch) {
  MoveOldSlots(plan, state, tokens.position + token, g);
  PrepareToken(plan, tokens, token, state, g, scratch);
  TokenView view = Advance(plan, tokens, token, state, g, scratch);
  const size_t v = plan.width, share = plan.share;
  const size_t logits_stride = plan.slots + plan.window_padded;
  const size_t groups = (share + kMaxGroup - 1) / kMaxGroup;
  const RowUpdate no_update = {nullptr, scratch.key, nullptr};
  for (size_t i = 0; i < groups; ++i) {
    const size_t j = share * i / groups;
    const HeadRows query = {scratch.query + j * plan.width_padded, plan.width_padded,
                            share * (i + 1) / groups - j};
    float* dots = scratch.logits + j * logits_stride;
    if (plan.adapted) {
      const Rows keys = {view.slots.base + v, view.slots.stride, view.slots.count};
      DotGroup(keys, i == 0 ? view.key_update : no_update, v, query, scratch.partial, dots,
               logits_stride);
    }
    DotGroup(view.near_keys, no_update, v, query, scratch.partial, dots + plan.slots,
             logits_stride);
  }
  for (size_t j = 0; j < share; ++j) Weigh(plan, g, j, view, scratch);
  for (size_t i = 0; i < groups; ++i) {
    const size_t j = share * i / groups;
    const size_t heads = share * (i + 1) / groups - j;
    const HeadRows weight = {scratch.logits + j * logits_stride, logits_stride, heads};
    const HeadRows out = {scratch.out + j * plan.width_padded, plan.width_padded, heads};
    SumGroup(view.slots, i == 0 ? view.value_update : no_update, view.near_values, v, weight,
             plan.slots, out);
  }
  const float* gate = tokens.gate == MixerTokens::kAbsent
                          ? nullptr
                          : tokens.projected + token * tokens.stride + tokens.gate;
  for (size_t j = 0; j < share; ++j) {
    const size_t begin = (g * share + j) * v;
    FinishHead(plan, scratch.weight_sum[j], gate == nullptr ? nullptr : gate + begin,
               scratch.out + j * plan.width_padded, tokens.out + token * tokens.out_stride + begin);
  }
}

void RunMixer(const MixerPlan& plan, const MixerTokens& tokens, const MixerState& state,
              int32_t memory_head, uint8_t* memory) {
  const MixerScratch scratch(plan, memory);
  std::memset(memory, 0, scratch.vector_bytes);
  for (int64_t token = 0; token < tokens.count; ++token) {
    RunToken(plan, tokens, token, state, static_cast<size_t>(memory_head), scratch);
  }
}

}  // namespace gma::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gma::cpu {

HWY_EXPORT(RunMixer);

Mixer::Mixer(const MixerConstants& constants) : plan_(std::make_unique<Plan>(constants)) {}
Mixer::~Mixer() = default;
Mixer::Mixer(Mixer&&) noexcept = default;
Mixer& Mixer::operator=(Mixer&&) noexcept = default;

size_t Mixer::scratch_bytes() const { return MixerScratch(*plan_, nullptr).bytes; }

void Mixer::Run(const MixerTokens& tokens, const MixerState& state, int32_t memory_head,
                uint8_t* scratch) const {
  HWY_DYNAMIC_DISPATCH(RunMixer)(*plan_, tokens, state, memory_head, scratch);
}

}  // namespace gma::cpu
#endif  // HWY_ONCE
