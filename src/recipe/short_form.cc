#include "recipe/short_form.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"

namespace lowkey {
namespace {

constexpr std::string_view kBitsAllowed = "bits are 2, 3, 4, 8, 16 or 32";
constexpr int32_t kKiviGroup = 32;      // KIVI's paper: groups of 32, ...
constexpr int32_t kKiviResidual = 128;  // ... the newest 128 tokens exact
constexpr int32_t kMaxGroup = kMaxHeadDim;

// One layer as it is written.
struct ShortLayer {
  bool kivi = false;
  int32_t k_bits = 16;
  int32_t v_bits = 16;
  std::optional<int32_t> group;        // kGroupIsHeadDim for "ghead"
  std::optional<int32_t> value_group;  // of values, where it is not `group`
  std::optional<int32_t> residual;
  bool block = false;
};

SideRecipe expand_side(const ShortLayer& text, int32_t bits, QuantAxis axis,
                       const std::optional<int32_t>& group) {
  SideRecipe side{.bits = bits};
  if (!side.packed()) return side;  // axis and group mean nothing: keep the defaults
  side.axis = axis;
  side.group_size = group.value_or(text.kivi ? kKiviGroup : kGroupIsHeadDim);
  return side;
}

// What the words mean. Returns why they mean nothing, or an empty text.
std::string_view expand(const ShortLayer& text, LayerRecipe& layer) {
  const QuantAxis key_axis = text.kivi ? QuantAxis::kPerChannel : QuantAxis::kPerToken;
  layer = LayerRecipe{};
  layer.k = expand_side(text, text.k_bits, key_axis, text.group);
  layer.v = expand_side(text, text.v_bits, QuantAxis::kPerToken,
                        text.value_group ? text.value_group : text.group);
  if (text.value_group && (!layer.k.packed() || !layer.v.packed()))
    return "two groups, of keys and of values, where one of them is not packed";
  if (!layer.k.packed() && !layer.v.packed()) {
    if (text.kivi || text.group || text.residual || text.block)
      return "16 and 32 bits are stored as they are: they take no kivi- and no options";
    return {};
  }
  layer.residual_length = text.residual.value_or(text.kivi ? kKiviResidual : 0);
  layer.window = text.block ? WindowRule::kBlock : WindowRule::kKivi;
  const bool channel_keys = layer.k.packed() && key_axis == QuantAxis::kPerChannel;
  if (channel_keys && layer.k.group_size == kGroupIsHeadDim)
    return "kivi keys are grouped by tokens: g32, g64 or g128, not ghead";
  if (text.block && channel_keys && !layer.v.packed())
    return "block: kivi keys are packed in blocks already, and nothing else is packed";
  if (text.block && layer.residual_length == 0)
    return "block: needs a window to pack whole, such as :r32:block";
  return {};
}

std::string print(const ShortLayer& text) {
  std::string out = text.kivi ? "kivi-" : "";
  out += fmt::format("{}", text.k_bits);
  if (text.v_bits != text.k_bits) out += fmt::format("/{}", text.v_bits);
  const auto group = [](int32_t size) {
    return size == kGroupIsHeadDim ? std::string("head") : fmt::format("{}", size);
  };
  if (text.group) out += ":g" + group(*text.group);
  if (text.value_group) out += "/" + group(*text.value_group);
  if (text.residual) out += fmt::format(":r{}", *text.residual);
  if (text.block) out += ":block";
  return out;
}

// Tries every way to write the layer and keeps the shortest that means exactly it: what is printed
// is right by construction, whatever expand() does.
std::optional<std::string> print_layer(const LayerRecipe& layer) {
  const auto in_words = [](const SideRecipe& side) {
    return is_recipe_bits(side.bits) && side.group_size >= 0 && side.group_size <= kMaxGroup;
  };
  if (!in_words(layer.k) || !in_words(layer.v) || layer.residual_length < 0 ||
      layer.residual_length > kMaxResidualLength) {
    return std::nullopt;
  }
  std::optional<std::string> shortest;
  using Group = std::optional<int32_t>;
  const std::array<std::pair<Group, Group>, 4> groups = {
      {{std::nullopt, std::nullopt},
       {layer.k.group_size, std::nullopt},
       {layer.v.group_size, std::nullopt},
       {layer.k.group_size, layer.v.group_size}}};
  const std::array<std::optional<int32_t>, 2> residuals = {std::nullopt, layer.residual_length};
  for (const bool kivi : {false, true}) {
    for (const auto& [group, value_group] : groups) {
      for (const auto& residual : residuals) {
        const ShortLayer text{.kivi = kivi,
                              .k_bits = layer.k.bits,
                              .v_bits = layer.v.bits,
                              .group = group,
                              .value_group = value_group,
                              .residual = residual,
                              .block = layer.window == WindowRule::kBlock};
        LayerRecipe meaning;
        if (!expand(text, meaning).empty() || meaning != layer) continue;
        std::string printed = print(text);
        if (!shortest || printed.size() < shortest->size()) shortest = std::move(printed);
      }
    }
  }
  return shortest;
}

std::optional<int32_t> parse_number(std::string_view digits, int32_t max) {
  if (digits.empty() || digits.size() > 9) return std::nullopt;
  int32_t value = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  if (value > max) return std::nullopt;
  return value;
}

// Other engines' words for the same thing.
std::string_view hint(std::string_view word) {
  struct Known {
    std::string_view word, hint;
  };
  static constexpr Known kKnown[] = {
      {"f16", "; write 16"},        {"fp16", "; write 16"},      {"float16", "; write 16"},
      {"bf16", "; write 16"},       {"f32", "; write 32"},       {"fp32", "; write 32"},
      {"float32", "; write 32"},    {"q8_0", "; write 8"},       {"q4_0", "; write 4"},
      {"q4_1", "; write 4"},        {"int8", "; write 8"},       {"int4", "; write 4"},
      {"int2", "; write 2"},        {"fp8", "; write 8"},        {"fp8_e4m3", "; write 8"},
      {"K8V4", "; write 8/4"},      {"K4V2", "; write 4/2"},     {"KV8", "; write 8"},
      {"KV4", "; write 4"},         {"KV2", "; write 2"},        {"KIVI", "; write kivi-4"},
      {"kivi", "; write kivi-4"},   {"kivi2", "; write kivi-2"}, {"kivi4", "; write kivi-4"},
      {"KIVI-2", "; write kivi-2"}, {"KIVI-4", "; write kivi-4"}};
  for (const Known& known : kKnown) {
    if (known.word == word) return known.hint;
  }
  return {};
}

// Untrusted text in a message: printable and not long.
std::string quoted(std::string_view text) {
  constexpr size_t kMost = 80;
  std::string out = "'";
  for (const char c : text.substr(0, kMost)) {
    out += (c < 0x20 || c == 0x7f) ? '?' : c;
  }
  out += text.size() > kMost ? "...'" : "'";
  return out;
}

// A file that +i@FILE can name: any but those whose endings make a text the path of a recipe, and
// what cannot be written in JSON.
bool names_prefix(std::string_view file) {
  if (file.empty() || file.ends_with(".json") || file.ends_with(".yaml") || file.ends_with(".yml"))
    return false;
  if (file.find(".json@") != file.npos) return false;
  return std::none_of(file.begin(), file.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  KvRecipe parse() const {
    KvRecipe recipe;
    std::string_view body = text_;
    if (const size_t plus = body.find('+'); plus != body.npos) {
      parse_prefix(body.substr(plus), recipe);
      body = body.substr(0, plus);
    }
    if (body.find('=') == body.npos) {
      if (const size_t comma = body.find(','); comma != body.npos) {
        error(body.substr(comma),
              "several parts need their layers, such as 0-1=16,*=4: layers=recipe,...");
      }
      recipe.rules.push_back(LayerRule{.rest = true, .layer = parse_layer(body)});
      return recipe;
    }
    for (;;) {
      const size_t comma = body.find(',');
      recipe.rules.push_back(parse_rule(body.substr(0, comma)));
      if (comma == body.npos) return recipe;
      body.remove_prefix(comma + 1);
    }
  }

 private:
  // `part` must be a view into text_: its place is the column.
  [[noreturn]] void error(std::string_view part, std::string_view what) const {
    const size_t offset = static_cast<size_t>(part.data() - text_.data());
    if (part.empty()) part = text_.substr(offset);  // something is missing before this
    fail(ErrorCode::kInvalidArgument, "recipe {}, column {}, at {}: {}", quoted(text_), offset + 1,
         part.empty() ? "the end" : quoted(part), what);
  }

  void parse_prefix(std::string_view suffix, KvRecipe& recipe) const {
    if (suffix.substr(0, 2) != "+i") {
      error(suffix, "only +iN may follow, once and last: the first N tokens stay exact");
    }
    if (suffix.substr(2, 1) == "@") {
      const std::string_view file = suffix.substr(3);
      if (!names_prefix(file)) {
        error(suffix,
              "+i@FILE comes last, such as +i@prefix.safetensors: the prefix's keys and "
              "values");
      }
      recipe.calibration = CalibrationRef{.file = std::string(file), .sha256 = {}};
      return;
    }
    const auto tokens = parse_number(suffix.substr(2), kMaxIntactPrefix);
    if (!tokens) {
      error(suffix, fmt::format("+iN comes once and last, N from 0 to {}: the first N tokens stay "
                                "exact",
                                kMaxIntactPrefix));
    }
    recipe.intact_prefix = *tokens;
  }

  LayerRule parse_rule(std::string_view text) const {
    const size_t equals = text.find('=');
    if (equals == text.npos)
      error(text, "layers are missing: each part is layers=recipe, such as 0-1=16 or *=4");
    LayerRule rule;
    const std::string_view layers = text.substr(0, equals);
    if (!parse_layer_span(layers, rule)) {
      error(layers,
            fmt::format("layers are N, N-M or * (the rest), counted from 0 to {}", kMaxLayers - 1));
    }
    rule.layer = parse_layer(text.substr(equals + 1));
    return rule;
  }

  LayerRecipe parse_layer(std::string_view text) const {
    ShortLayer layer;
    std::string_view rest = text;
    constexpr std::string_view kKivi = "kivi-";
    if (rest.substr(0, kKivi.size()) == kKivi) {
      layer.kivi = true;
      rest.remove_prefix(kKivi.size());
    }
    const size_t colon = rest.find(':');
    std::string_view bits = rest.substr(0, colon);
    const size_t slash = bits.find('/');
    layer.k_bits = parse_bits(bits.substr(0, slash));
    layer.v_bits = slash == bits.npos ? layer.k_bits : parse_bits(bits.substr(slash + 1));
    rest.remove_prefix(bits.size());
    while (!rest.empty()) {
      rest.remove_prefix(1);  // the colon
      const std::string_view option = rest.substr(0, rest.find(':'));
      parse_option(option, layer);
      rest.remove_prefix(option.size());
    }
    LayerRecipe meaning;
    const std::string_view refusal = expand(layer, meaning);
    if (!refusal.empty()) error(text, refusal);
    return meaning;
  }

  int32_t parse_bits(std::string_view text) const {
    const auto bits = parse_number(text, 32);
    if (!bits || !is_recipe_bits(*bits)) {
      error(text, fmt::format("{} (keys/values, such as 8/4){}", kBitsAllowed, hint(text)));
    }
    return *bits;
  }

  void parse_option(std::string_view text, ShortLayer& layer) const {
    if (text == "block") {
      if (layer.block) error(text, "given twice");
      layer.block = true;
    } else if (text.substr(0, 1) == "g") {
      if (layer.group) error(text, "the group is given twice");
      const std::string_view sizes = text.substr(1);
      const size_t slash = sizes.find('/');
      layer.group = parse_group(text, sizes.substr(0, slash));
      if (slash != sizes.npos) layer.value_group = parse_group(text, sizes.substr(slash + 1));
    } else if (text.substr(0, 1) == "r") {
      if (layer.residual) error(text, "the window is given twice");
      layer.residual = parse_number(text.substr(1), kMaxResidualLength);
      if (!layer.residual) {
        error(text, fmt::format("a window is rN, N from 0 to {}: the newest N tokens stay exact",
                                kMaxResidualLength));
      }
    } else {
      error(text,
            "options are gN or ghead (group), rN (window), block; keys and values of "
            "different bits are written 8/4");
    }
  }

  int32_t parse_group(std::string_view option, std::string_view size) const {
    if (size == "head") return kGroupIsHeadDim;
    const auto group = parse_number(size, kMaxGroup);
    if (!group || *group == 0)
      error(option, fmt::format("a group is gN, N from 1 to {}, or ghead", kMaxGroup));
    return *group;
  }

  std::string_view text_;
};

}  // namespace

bool parse_layer_span(std::string_view text, LayerRule& rule) {
  rule.rest = text == "*";
  rule.first = rule.last = 0;
  if (rule.rest) return true;
  const size_t dash = text.find('-');
  const auto first = parse_number(text.substr(0, dash), kMaxLayers - 1);
  const auto last = dash == text.npos ? first : parse_number(text.substr(dash + 1), kMaxLayers - 1);
  if (!first || !last || *first > *last) return false;
  rule.first = *first;
  rule.last = *last;
  return true;
}

std::string layer_span_text(const LayerRule& rule) {
  if (rule.rest) return "*";
  if (rule.first == rule.last) return fmt::format("{}", rule.first);
  return fmt::format("{}-{}", rule.first, rule.last);
}

KvRecipe parse_short_form(std::string_view text) {
  return Parser(text).parse();
}

std::optional<std::string> short_form(const KvRecipe& recipe) {
  if (recipe.rules.empty() || recipe.intact_prefix < 0 || recipe.intact_prefix > kMaxIntactPrefix ||
      recipe.protect != 0 || recipe.score_correction || recipe.prefill != PrefillMode::kCached) {
    return std::nullopt;
  }
  // +i says one of both: how many tokens, or whose.
  if (const auto& prefix = recipe.calibration;
      prefix &&
      (recipe.intact_prefix != 0 || !prefix->sha256.empty() || !names_prefix(prefix->file))) {
    return std::nullopt;
  }
  std::string out;
  const bool whole_model = recipe.rules.size() == 1 && recipe.rules[0].rest;
  for (const LayerRule& rule : recipe.rules) {
    const auto layer = print_layer(rule.layer);
    LayerRule span;
    if (!layer || !parse_layer_span(layer_span_text(rule), span)) return std::nullopt;
    if (!out.empty()) out += ',';
    if (!whole_model) out += layer_span_text(rule) + '=';
    out += *layer;
  }
  if (recipe.intact_prefix != 0) out += fmt::format("+i{}", recipe.intact_prefix);
  if (recipe.calibration) out += fmt::format("+i@{}", recipe.calibration->file);
  return out;
}

}  // namespace lowkey
