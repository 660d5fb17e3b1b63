#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "recipe/bytes.h"
#include "recipe/names.h"
#include "recipe/recipe.h"
#include "recipe/short_form.h"

namespace lowkey {
namespace {

constexpr int32_t kPackedHeadDimMultiple = 16;  // the lane block of a packed page

void check_shape(const KvShape& shape) {
  const auto check = [](const char* what, int32_t value, int32_t max) {
    if (value < 1 || value > max)
      fail(ErrorCode::kInvalidArgument, "{} is {}: a cache has 1 to {}", what, value, max);
  };
  check("num_layers", shape.num_layers, kMaxLayers);
  check("num_kv_heads", shape.num_kv_heads, kMaxKvHeads);
  check("head_dim", shape.head_dim, kMaxHeadDim);
  if (!shape.windows.empty() && std::ssize(shape.windows) != shape.num_layers) {
    fail(ErrorCode::kInvalidArgument, "attention windows are given for {} layers: the model has {}",
         shape.windows.size(), shape.num_layers);
  }
  for (size_t layer = 0; layer < shape.windows.size(); ++layer) {
    if (shape.windows[layer] < 0) {
      fail(ErrorCode::kInvalidArgument,
           "the attention window of layer {} is {}: at least 1 token, or 0 for all", layer,
           shape.windows[layer]);
    }
  }
}

// Complaints about one recipe: "recipe LABEL: WHERE: what".
class Resolver {
 public:
  Resolver(const KvRecipe& recipe, const KvShape& shape, int64_t prefix_tokens,
           const std::string& label)
      : recipe_(recipe), shape_(shape), prefix_tokens_(prefix_tokens), label_(label) {}

  std::vector<ResolvedLayer> resolve() const {
    check_whole_model();
    std::vector<ResolvedLayer> layers;
    layers.reserve(static_cast<size_t>(shape_.num_layers));
    for (const LayerRule* rule : rule_of_each_layer()) layers.push_back(resolve_layer(*rule));
    return layers;
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(ErrorCode code, fmt::format_string<Args...> format,
                           Args&&... args) const {
    fail(code, "recipe {}: {}", label_, fmt::format(format, std::forward<Args>(args)...));
  }

  template <typename E>
  void check_available(const std::string& where, std::string_view field, E value,
                       E available) const {
    if (value == available) return;
    refuse(ErrorCode::kUnsupported, "{}: {}: {} is not available yet, only {}", where, field,
           enum_name(value), enum_name(available));
  }

  void check_whole_model() const {
    if (recipe_.intact_prefix < 0 || recipe_.intact_prefix > kMaxIntactPrefix) {
      refuse(ErrorCode::kInvalidArgument, "intact_prefix: {} is out of range: 0 to {}",
             recipe_.intact_prefix, kMaxIntactPrefix);
    }
    if (recipe_.protect != 0)
      refuse(ErrorCode::kUnsupported, "protect: exact heavy-hitter tokens are not available yet");
    if (recipe_.score_correction)
      refuse(ErrorCode::kUnsupported, "score_correction is not available yet");
    if (recipe_.calibration && prefix_tokens_ == 0) {
      refuse(ErrorCode::kInvalidArgument,
             "its intact prefix is in {}, which is not read here: say +iN instead",
             recipe_.calibration->file);
    }
    if (prefix_tokens_ < 0 || prefix_tokens_ > kMaxIntactPrefix) {
      refuse(ErrorCode::kInvalidArgument, "a prefix of {} tokens: 1 to {}", prefix_tokens_,
             kMaxIntactPrefix);
    }
  }

  // Every layer exactly once: named by one rule, or left to the one rest rule.
  std::vector<const LayerRule*> rule_of_each_layer() const {
    std::vector<const LayerRule*> rules(static_cast<size_t>(shape_.num_layers), nullptr);
    const LayerRule* rest = nullptr;
    for (const LayerRule& rule : recipe_.rules) {
      if (rule.rest) {
        if (rest)
          refuse(ErrorCode::kInvalidArgument, "layers *: given twice; the rest is named once");
        rest = &rule;
        continue;
      }
      if (rule.first < 0 || rule.first > rule.last || rule.last >= shape_.num_layers) {
        refuse(ErrorCode::kInvalidArgument, "layers {}: the model has layers 0-{}",
               layer_span_text(rule), shape_.num_layers - 1);
      }
      for (int32_t layer = rule.first; layer <= rule.last; ++layer) {
        const LayerRule*& slot = rules[static_cast<size_t>(layer)];
        if (slot) {
          refuse(ErrorCode::kInvalidArgument, "layer {} is covered twice: by {} and by {}", layer,
                 layer_span_text(*slot), layer_span_text(rule));
        }
        slot = &rule;
      }
    }
    for (size_t layer = 0; layer < rules.size(); ++layer) {
      if (!rules[layer]) rules[layer] = rest;
      if (!rules[layer]) {
        refuse(ErrorCode::kInvalidArgument,
               "layer {} is not covered: the model has layers 0-{}; add *=... for the rest", layer,
               shape_.num_layers - 1);
      }
    }
    return rules;
  }

  ResolvedLayer resolve_layer(const LayerRule& rule) const {
    const LayerRecipe& layer = rule.layer;
    const std::string where = "layers " + layer_span_text(rule);
    if (layer.residual_length < 0 || layer.residual_length > kMaxResidualLength) {
      refuse(ErrorCode::kInvalidArgument, "{}: residual_length: {} is out of range: 0 to {}", where,
             layer.residual_length, kMaxResidualLength);
    }
    check_available(where, "key_rope", layer.key_rope, KeyRope::kAfter);
    const auto resolve_head = [&](const HeadRecipe& head, const std::string& whose) {
      return HeadRecipe{.k = resolve_side(head.k, layer, whose + ", keys"),
                        .v = resolve_side(head.v, layer, whose + ", values")};
    };
    ResolvedLayer resolved;
    resolved.heads.assign(static_cast<size_t>(shape_.num_kv_heads),
                          resolve_head({.k = layer.k, .v = layer.v}, where));
    for (const auto& [index, head] : layer.heads) {
      if (index < 0 || index >= shape_.num_kv_heads) {
        refuse(ErrorCode::kInvalidArgument, "{}: head {}: the model has KV heads 0-{}", where,
               index, shape_.num_kv_heads - 1);
      }
      resolved.heads[static_cast<size_t>(index)] =
          resolve_head(head, fmt::format("{}, head {}", where, index));
    }
    bool packed = false;
    for (const HeadRecipe& head : resolved.heads) packed |= head.k.packed() || head.v.packed();
    if (packed) {
      resolved.residual_length = layer.residual_length;
      resolved.window = layer.window;
    }
    return resolved;
  }

  SideRecipe resolve_side(const SideRecipe& side, const LayerRecipe& layer,
                          const std::string& where) const {
    if (!is_recipe_bits(side.bits)) {
      refuse(ErrorCode::kInvalidArgument, "{}: {} bits: 2, 3, 4, 8, 16 or 32", where, side.bits);
    }
    if (!side.packed()) return SideRecipe{.bits = side.bits};
    check_available(where, "quantizer", side.quantizer, Quantizer::kAffine);
    check_available(where, "scales", side.scales, ScaleChoice::kMinMax);
    check_available(where, "transform", side.transform, Transform::kNone);
    if (shape_.head_dim % kPackedHeadDimMultiple != 0) {
      refuse(ErrorCode::kUnsupported,
             "{}: {} bits: packed formats need a head_dim that is a multiple of {}; the model's is "
             "{} (16 and 32 bits take any)",
             where, side.bits, kPackedHeadDimMultiple, shape_.head_dim);
    }
    SideRecipe resolved = side;
    if (side.axis == QuantAxis::kPerChannel) {
      check_channel_group(side, layer, where);
    } else {
      if (side.group_size == kGroupIsHeadDim) resolved.group_size = shape_.head_dim;
      check_token_group(resolved.group_size, where);
    }
    if (side_window(side, layer.window) == SideWindow::kBlock && layer.residual_length == 0) {
      refuse(ErrorCode::kInvalidArgument,
             "{}: window: block needs a residual_length, such as :r32:block", where);
    }
    return resolved;
  }

  // Groups of tokens must not cross pages, and a block is packed whole.
  void check_channel_group(const SideRecipe& side, const LayerRecipe& layer,
                           const std::string& where) const {
    const int32_t group = side.group_size;
    if (group != 32 && group != 64 && group != 128) {
      refuse(ErrorCode::kInvalidArgument,
             "{}: group_size: {}: per channel, groups hold 32, 64 or 128 tokens", where,
             group == kGroupIsHeadDim ? "head" : fmt::format("{}", group));
    }
    if (layer.residual_length == 0 || layer.residual_length % group != 0) {
      refuse(ErrorCode::kInvalidArgument,
             "{}: residual_length: {}: per channel, it is a multiple of the group ({}), such as "
             ":r{}",
             where, layer.residual_length, group, group);
    }
  }

  void check_token_group(int32_t group, const std::string& where) const {
    if (group < 1 || shape_.head_dim % group != 0) {
      refuse(ErrorCode::kInvalidArgument,
             "{}: group_size: {}: per token, groups divide head_dim, which is {}", where, group,
             shape_.head_dim);
    }
    if (group % kPackedHeadDimMultiple != 0) {
      refuse(ErrorCode::kUnsupported,
             "{}: group_size: {}: per token, groups are multiples of {} channels", where, group,
             kPackedHeadDimMultiple);
    }
  }

  const KvRecipe& recipe_;
  const KvShape& shape_;
  const int64_t prefix_tokens_;
  const std::string& label_;
};

}  // namespace

ResolvedRecipe resolve_recipe(const KvRecipe& recipe, const KvShape& shape, int64_t prefix_tokens) {
  check_shape(shape);
  ResolvedRecipe resolved;
  resolved.shape = shape;
  resolved.label = !recipe.name.empty() ? recipe.name : short_form(recipe).value_or("(JSON)");
  resolved.layers = Resolver(recipe, shape, prefix_tokens, resolved.label).resolve();
  resolved.intact_prefix = std::max(recipe.intact_prefix, static_cast<int32_t>(prefix_tokens));
  resolved.prefill = recipe.prefill;
  return resolved;
}

}  // namespace lowkey
