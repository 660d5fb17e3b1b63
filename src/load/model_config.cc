#include "load/model_config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace lowkey {

int32_t checked_count(const std::string& field, int64_t value, int32_t max) {
  if (value < 1 || value > max)
    fail(ErrorCode::kCorruptFile, "{} is {}, not between 1 and {}", field, value, max);
  return static_cast<int32_t>(value);
}

double checked_positive(const std::string& field, double value) {
  if (!std::isfinite(value) || value <= 0.0)
    fail(ErrorCode::kCorruptFile, "{} is {}, not a finite number above 0", field, value);
  return value;
}

namespace {

class ConfigCheck {
 public:
  ConfigCheck(const ModelConfig& config, const std::string& source)
      : config_(config), source_(source) {}

  void heads() const {
    if (config_.num_qo_heads % config_.num_kv_heads != 0) {
      corrupt("{} query heads do not divide among {} key/value heads", config_.num_qo_heads,
              config_.num_kv_heads);
    }
    if (config_.head_dim % 2 != 0)
      corrupt("head_dim {} is odd: rotary embedding needs pairs", config_.head_dim);
  }

  void layers() const {
    if (config_.layers.size() != static_cast<size_t>(config_.num_layers))
      corrupt("{} layers are described, not {}", config_.layers.size(), config_.num_layers);
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      const LayerConfig& layer = config_.layers[i];
      if (layer.window < 0 || (layer.window > 0 && layer.window >= config_.max_context)) {
        corrupt("layer {} sees {} tokens: not below the context of {}", i, layer.window,
                config_.max_context);
      }
      if (layer.rope != RopeUse::kNone && config_.alibi)
        corrupt("layer {} has both ALiBi and rope", i);
    }
    if (uses(RopeUse::kMain)) rope(config_.rope);
    if (uses(RopeUse::kLocal)) rope(config_.local_rope);
  }

  void variations() const {
    positive("attention_scale", config_.attention_scale);
    positive("embedding_scale", config_.embedding_scale);
    cap("attention_softcap", config_.attention_softcap);
    cap("logit_softcap", config_.logit_softcap);
    if (config_.shared_norm && !config_.parallel)
      corrupt("a norm is shared by attention and MLP, which are not parallel");
    if (config_.post_norms && config_.parallel)
      corrupt("norms behind attention and MLP, which are parallel");
    if (config_.position_offset < 0 ||
        config_.max_context + config_.position_offset > kMaxContext) {
      corrupt("{} positions from row {} on: out of range", config_.max_context,
              config_.position_offset);
    }
  }

  void experts() const {
    const bool any = std::any_of(config_.layers.begin(), config_.layers.end(),
                                 [](const LayerConfig& layer) { return layer.experts; });
    if (!any) return;
    if (config_.num_experts < 1 || config_.num_experts > kMaxExperts)
      corrupt("{} experts: not between 1 and {}", config_.num_experts, kMaxExperts);
    if (config_.experts_per_token < 1 || config_.experts_per_token > config_.num_experts) {
      corrupt("{} experts for each token, of {}", config_.experts_per_token, config_.num_experts);
    }
    if (config_.expert_intermediate_size < 1)
      corrupt("the experts' intermediate size is {}", config_.expert_intermediate_size);
    if (!config_.gated_mlp || config_.mlp_bias)
      corrupt("experts without a gate or with biases are not known here");
  }

 private:
  template <typename... Args>
  [[noreturn]] void corrupt(fmt::format_string<Args...> text, Args&&... args) const {
    fail(ErrorCode::kCorruptFile, "{}: {}", source_,
         fmt::format(text, std::forward<Args>(args)...));
  }

  bool uses(RopeUse use) const {
    return std::any_of(config_.layers.begin(), config_.layers.end(),
                       [&](const LayerConfig& layer) { return layer.rope == use; });
  }

  void positive(const char* name, double value) const {
    checked_positive(fmt::format("{}: {}", source_, name), value);
  }

  void cap(const char* name, double value) const {
    if (value != 0.0) positive(name, value);
  }

  void rope(const RopeConfig& rope) const {
    if (rope.dim < 2 || rope.dim > config_.head_dim || rope.dim % 2 != 0) {
      corrupt("{} rotated channels: not an even number between 2 and head_dim {}", rope.dim,
              config_.head_dim);
    }
    positive("rope base", rope.base);
    positive("rope factor", rope.factor);
    positive("rope attention_factor", rope.attention_factor);
    if (rope.scaling == RopeScaling::kLlama3 && !(rope.high_freq_factor > rope.low_freq_factor)) {
      corrupt("rope high_freq_factor {} is not above low_freq_factor {}", rope.high_freq_factor,
              rope.low_freq_factor);
    }
    if (rope.scaling == RopeScaling::kYarn) {
      if (!(rope.beta_fast > rope.beta_slow))
        corrupt("rope beta_fast {} is not above beta_slow {}", rope.beta_fast, rope.beta_slow);
      if (rope.original_context < 1)
        corrupt("rope's original context is {}", rope.original_context);
      if (!(rope.base > 1.0)) corrupt("YaRN with a rope base of {}, not above 1", rope.base);
    }
    if (rope.freq_divisors.empty()) return;
    if (rope.freq_divisors.size() != static_cast<size_t>(rope.dim / 2)) {
      corrupt("{} rope divisors for {} rotated channels", rope.freq_divisors.size(), rope.dim);
    }
    for (float divisor : rope.freq_divisors) positive("a rope divisor", divisor);
  }

  const ModelConfig& config_;
  const std::string& source_;
};

}  // namespace

void validate_config(const ModelConfig& config, const std::string& source_name) {
  const ConfigCheck check(config, source_name);
  check.heads();
  check.layers();
  check.variations();
  check.experts();
}

}  // namespace lowkey
