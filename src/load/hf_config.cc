#include "load/hf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "load/model_config.h"
#include "load/printable.h"

namespace lowkey {
namespace {

std::string printed(const std::string& text) {
  return fmt::format("'{}'", is_printable(text) ? text : "(unprintable)");
}

// A model of several parts holds its language model's configuration in an object of its own.
JsonFields language_model_of(const JsonFields& json) {
  return json.get_object("text_config").value_or(json);
}

Activation activation_named(const HfConfig& config, std::string_view field,
                            const std::string& name) {
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  config.unsupported(field, fmt::format("{} is not known here (silu, gelu, gelu_pytorch_tanh and "
                                        "relu are)",
                                        printed(name)));
}

// transformers' get_mscale.
double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// What YaRN divides each frequency by, its ramp's ends not rounded to whole channels ("truncate":
// false). RopeScaling::kYarn rounds them.
std::vector<float> unrounded_yarn_divisors(const RopeConfig& rope) {
  const auto channel = [&](double rotations) {
    return rope.dim *
           std::log(static_cast<double>(rope.original_context) /
                    (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(rope.base));
  };
  const double low = std::max(channel(rope.beta_fast), 0.0);
  double high = std::min(channel(rope.beta_slow), rope.dim - 1.0);
  if (low == high) high += 0.001;
  std::vector<float> divisors;
  for (int32_t i = 0; i < rope.dim / 2; ++i) {
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    divisors.push_back(static_cast<float>(1.0 / (ramp / rope.factor + (1.0 - ramp))));
  }
  return divisors;
}

class RopeReader {
 public:
  RopeReader(const JsonFields& parameters, const JsonFields& outer, ModelConfig& config)
      : parameters_(parameters), outer_(outer), config_(config) {}

  RopeConfig read(double default_base, int32_t default_original_context) {
    read_base_and_dim(default_base);
    const std::string kind = parameters_.get_string("rope_type")
                                 .value_or(parameters_.get_string("type").value_or("default"));
    if (kind == "default") return rope_;
    const bool phi3 = default_original_context > 0;
    if (kind == "linear") {
      rope_.scaling = RopeScaling::kLinear;
      rope_.factor = positive("factor");
    } else if (kind == "llama3") {
      read_llama3();
    } else if (kind == "longrope" || kind == "su" || (phi3 && kind == "yarn")) {
      // Phi-3's early files call it so.
      read_longrope(default_original_context);
    } else if (kind == "yarn") {
      read_yarn();
    } else {
      fail(ErrorCode::kUnsupported,
           "{}: {} is not known here (default, linear, llama3, yarn and longrope are)",
           parameters_.describe("rope_type"), printed(kind));
    }
    return rope_;
  }

 private:
  void read_base_and_dim(double default_base) {
    const JsonFields& base = parameters_.has("rope_theta") ? parameters_ : outer_;
    rope_.base = checked_positive(base.describe("rope_theta"),
                                  base.get_float("rope_theta").value_or(default_base));
    const char* name = "partial_rotary_factor";
    const JsonFields& holder = parameters_.has(name) ? parameters_ : outer_;
    const double part =
        checked_positive(holder.describe(name), holder.get_float(name).value_or(1.0));
    if (part > 1.0)
      fail(ErrorCode::kCorruptFile, "{} is {}, more than 1", holder.describe(name), part);
    rope_.dim = static_cast<int32_t>(config_.head_dim * part);
  }

  void read_llama3() {
    rope_.scaling = RopeScaling::kLlama3;
    rope_.factor = positive("factor");
    rope_.low_freq_factor = positive("low_freq_factor");
    rope_.high_freq_factor = positive("high_freq_factor");
    const std::string_view name = "original_max_position_embeddings";
    rope_.original_context = checked_count(
        parameters_.describe(name), parameters_.need(parameters_.get_int(name), name), kMaxContext);
  }

  void read_yarn() {
    rope_.scaling = RopeScaling::kYarn;
    rope_.original_context = original_context(0);
    rope_.factor = parameters_.has("factor") ? positive("factor") : context_factor();
    rope_.beta_fast = beta("beta_fast", rope_.beta_fast);
    rope_.beta_slow = beta("beta_slow", rope_.beta_slow);
    const double mscale = parameters_.get_float("mscale").value_or(0.0);
    const double all_dim = parameters_.get_float("mscale_all_dim").value_or(0.0);
    rope_.attention_factor =
        parameters_.has("attention_factor") ? positive("attention_factor")
        : mscale != 0.0 && all_dim != 0.0
            ? yarn_mscale(rope_.factor, mscale) / yarn_mscale(rope_.factor, all_dim)
            : yarn_mscale(rope_.factor, 1.0);
    if (!parameters_.get_bool("truncate").value_or(true)) {
      rope_.freq_divisors = unrounded_yarn_divisors(rope_);
      rope_.scaling = RopeScaling::kNone;
    }
  }

  // One factor per frequency: `short_factor` up to the original context, `long_factor` for every
  // token of a longer text. A cached key cannot change its factor when a text grows, so the context
  // ends where the short ones do.
  void read_longrope(int32_t default_original_context) {
    rope_.original_context = original_context(default_original_context);
    rope_.freq_divisors = factors("short_factor");
    factors("long_factor");
    const double factor = parameters_.has("factor") ? positive("factor") : context_factor();
    const auto original = static_cast<double>(rope_.original_context);
    rope_.attention_factor = parameters_.has("attention_factor") ? positive("attention_factor")
                             : factor <= 1.0
                                 ? 1.0
                                 : std::sqrt(1.0 + std::log(factor) / std::log(original));
    config_.max_context = std::min(config_.max_context, rope_.original_context);
  }

  std::vector<float> factors(std::string_view name) const {
    const nlohmann::json* list = parameters_.find(name);
    if (!list) parameters_.need(std::optional<int>(), name);
    if (!list->is_array() || list->size() != static_cast<size_t>(rope_.dim / 2)) {
      fail(ErrorCode::kCorruptFile, "{} is not a list of {} numbers", parameters_.describe(name),
           rope_.dim / 2);
    }
    std::vector<float> values;
    for (const nlohmann::json& value : *list) {
      if (!value.is_number()) {
        fail(ErrorCode::kCorruptFile, "{} is not a list of {} numbers", parameters_.describe(name),
             rope_.dim / 2);
      }
      values.push_back(static_cast<float>(checked_positive(
          fmt::format("{}: a value", parameters_.describe(name)), value.get<float>())));
    }
    return values;
  }

  // transformers lets a field beside the rope's object win over one in it.
  int64_t original_context(int32_t fallback) const {
    const std::string_view name = "original_max_position_embeddings";
    const JsonFields& holder = outer_.has(name) || fallback > 0 ? outer_ : parameters_;
    const int64_t none = fallback > 0 ? fallback : config_.max_context;
    return checked_count(holder.describe(name), holder.get_int(name).value_or(none), kMaxContext);
  }

  double context_factor() const {
    return static_cast<double>(config_.max_context) / static_cast<double>(rope_.original_context);
  }

  // 0 counts as absent.
  double beta(std::string_view name, double fallback) const {
    const double value = parameters_.get_float(name).value_or(0.0);
    return checked_positive(parameters_.describe(name), value == 0.0 ? fallback : value);
  }

  double positive(std::string_view name) const {
    return checked_positive(parameters_.describe(name),
                            parameters_.need(parameters_.get_float(name), name));
  }

  const JsonFields& parameters_;
  const JsonFields& outer_;
  ModelConfig& config_;
  RopeConfig rope_;
};

}  // namespace

ModelConfig read_hf_config(const JsonFields& json) {
  const HfConfig hf(json);
  ModelConfig config;
  config.architecture = hf.family().name;
  hf.family().from_hugging_face(hf, config);
  validate_config(config, json.source_name());
  return config;
}

ModelConfig config_from_hugging_face(std::string_view json, std::string_view source_name) {
  const std::string source(source_name);
  check_json_limits(json, {}, source);
  const nlohmann::json parsed = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) fail(ErrorCode::kCorruptFile, "{}: not a JSON object", source);
  return read_hf_config(JsonFields(parsed, source));
}

int32_t window_within(int64_t window, int64_t max_context) {
  return window < max_context ? static_cast<int32_t>(window) : 0;
}

HfConfig::HfConfig(const JsonFields& json) : top_(json), fields_(language_model_of(json)) {
  find_family(json);
  refuse_what_nothing_reads();
}

void HfConfig::find_family(const JsonFields& json) {
  std::string name = json.get_string("model_type").value_or("");
  if (const nlohmann::json* list = json.find("architectures")) {
    if (!list->is_array() || list->size() != 1 || !list->front().is_string())
      fail(ErrorCode::kCorruptFile, "{} is not one name", json.describe("architectures"));
    name = list->front().get<std::string>();
  }
  family_ = find_hugging_face_family(name);
  if (!family_) {
    fail(ErrorCode::kUnsupported, "{}: architecture {} is not known here ({} are)",
         json.source_name(), printed(name), hugging_face_families_text());
  }
}

void HfConfig::refuse_what_nothing_reads() const {
  for (const JsonFields& fields : {top_, fields_}) {
    if (fields.has("quantization_config")) {
      fail(ErrorCode::kUnsupported,
           "{}: weights quantized in a Hugging Face folder are not read; use the original or a "
           "GGUF",
           fields.describe("quantization_config"));
    }
  }
}

void HfConfig::unsupported(std::string_view name, const std::string& why) const {
  fail(ErrorCode::kUnsupported, "{}: {}", fields_.describe(name), why);
}

void HfConfig::corrupt(std::string_view name, const std::string& why) const {
  fail(ErrorCode::kCorruptFile, "{} {}", fields_.describe(name), why);
}

void HfConfig::require(std::string_view name, bool expected, const char* why) const {
  if (flag(name, expected) != expected) unsupported(name, why);
}

bool HfConfig::mentions(std::string_view name) const {
  return fields_.mentions(name);
}

int32_t HfConfig::count(std::string_view name, int32_t max, int32_t fallback) const {
  if (fallback > 0 && !has(name)) return fallback;
  return checked_count(fields_.describe(name), fields_.need(fields_.get_int(name), name), max);
}

double HfConfig::number(std::string_view name, double fallback) const {
  return checked_positive(fields_.describe(name), fields_.get_float(name).value_or(fallback));
}

double HfConfig::cap(std::string_view name, double fallback) const {
  if (!mentions(name)) return fallback;
  return has(name) ? number(name, fallback) : 0.0;
}

bool HfConfig::flag(std::string_view name, bool fallback) const {
  return fields_.get_bool(name).value_or(fallback);
}

int64_t HfConfig::window(std::string_view name, int64_t fallback) const {
  if (!mentions(name)) return fallback;
  return has(name) ? count(name, kMaxContext) : 0;
}

std::optional<std::vector<int64_t>> HfConfig::ints(std::string_view name) const {
  const nlohmann::json* list = fields_.find(name);
  if (!list) return std::nullopt;
  const auto is_integer = [](const nlohmann::json& value) {
    return value.is_number_integer() &&
           (!value.is_number_unsigned() || value.get<uint64_t>() <= INT32_MAX);
  };
  if (!list->is_array() || !std::all_of(list->begin(), list->end(), is_integer))
    corrupt(name, "is not a list of integers");
  return list->get<std::vector<int64_t>>();
}

std::vector<bool> HfConfig::sliding_layers(const ModelConfig& config,
                                           const std::function<bool(int32_t)>& otherwise) const {
  const nlohmann::json* types = fields_.find("layer_types");
  if (types && (!types->is_array() || types->size() != config.layers.size())) {
    corrupt("layer_types",
            fmt::format("is not a list of {} names, one for each layer", config.layers.size()));
  }
  std::vector<bool> sliding;
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    if (!types) {
      sliding.push_back(otherwise(static_cast<int32_t>(layer)));
      continue;
    }
    const nlohmann::json& type = (*types)[layer];
    sliding.push_back(type == "sliding_attention");
    if (!sliding.back() && type != "full_attention") {
      unsupported("layer_types",
                  fmt::format("{} is not known here (full_attention and sliding_attention are)",
                              type.is_string() ? printed(type.get<std::string>()) : "no name"));
    }
  }
  return sliding;
}

void HfConfig::set_windows(int64_t window, const std::vector<bool>& sliding,
                           ModelConfig& config) const {
  for (size_t layer = 0; layer < sliding.size(); ++layer) {
    if (!sliding[layer]) continue;
    if (window <= 0) corrupt("sliding_window", "is missing, but layers slide");
    config.layers[layer].window = window_within(window, config.max_context);
  }
}

void HfConfig::read_decoder(const HfDecoder& from, ModelConfig& config) const {
  for (const char* name : {"num_local_experts", "num_experts"}) {
    if (!from.experts && fields_.get_int(name).value_or(0) > 0) {
      unsupported(name, fmt::format("mixtures of experts are not known of the {} family",
                                    config.architecture));
    }
  }
  config.num_layers = count("num_hidden_layers", kMaxLayers, from.default_layers);
  config.hidden_size = count("hidden_size", kMaxHidden, from.default_hidden);
  config.intermediate_size = count(from.intermediate, kMaxHidden, from.default_intermediate);
  config.num_qo_heads = count("num_attention_heads", kMaxHeads, from.default_heads);
  config.num_kv_heads = from.kv_heads
                            ? count(from.kv_heads, kMaxHeads,
                                    fields_.mentions(from.kv_heads) || from.default_kv_heads == 0
                                        ? config.num_qo_heads
                                        : from.default_kv_heads)
                            : config.num_qo_heads;
  if (from.default_head_dim > 0 || has("head_dim")) {
    config.head_dim = count("head_dim", kMaxHeadDim, from.default_head_dim);
  } else {
    if (config.hidden_size % config.num_qo_heads != 0) {
      fail(ErrorCode::kCorruptFile, "{}: hidden_size {} does not divide into {} heads",
           fields_.source_name(), config.hidden_size, config.num_qo_heads);
    }
    config.head_dim = checked_count(fields_.describe("hidden_size / num_attention_heads"),
                                    config.hidden_size / config.num_qo_heads, kMaxHeadDim);
  }
  config.vocab_size = count("vocab_size", kMaxVocab, from.default_vocab);
  config.max_context = count("max_position_embeddings", kMaxContext, from.default_context);
  if (from.norm_eps) {
    config.norm_eps = number(from.norm_eps, from.default_norm_eps);
  } else {
    config.norm_eps = from.default_norm_eps;
  }
  // A part of a larger model is tied as the whole says, unless it says so itself.
  const char* tied = "tie_word_embeddings";
  config.tied_embeddings =
      fields_.get_bool(tied).value_or(top_.get_bool(tied).value_or(from.default_tied));
  config.activation =
      activation_named(*this, from.activation,
                       fields_.get_string(from.activation).value_or(from.default_activation));
  config.layers.assign(static_cast<size_t>(config.num_layers), LayerConfig{});
  config.attention_scale = 1.0 / std::sqrt(config.head_dim);

  if (!from.reads_rope) return;

  // transformers 5 writes everything into rope_parameters; before, rope_theta stood alone and
  // rope_scaling held the rest, its kind called rope_type or, earlier, type.
  const nlohmann::json nothing = nlohmann::json::object();
  const auto scaling = fields_.get_object("rope_scaling");
  const JsonFields rope =
      scaling ? *scaling
              : fields_.get_object("rope_parameters")
                    .value_or(JsonFields(nothing, fields_.source_name(), "rope_parameters."));
  for (const char* kind : {"full_attention", "sliding_attention"}) {
    if (rope.find(kind) && rope.find(kind)->is_object()) {
      fail(ErrorCode::kUnsupported, "{}: rope per kind of layer is not known of the {} family",
           rope.describe(kind), config.architecture);
    }
  }
  config.rope =
      read_rope(rope, fields_, from.default_rope_base, from.default_original_context, config);
}

RopeConfig HfConfig::read_rope(const JsonFields& parameters, const JsonFields& outer,
                               double default_base, int32_t default_original_context,
                               ModelConfig& config) const {
  return RopeReader(parameters, outer, config).read(default_base, default_original_context);
}

}  // namespace lowkey
