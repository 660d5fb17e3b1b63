#include "cache/naive_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <utility>

#include "core/half.h"
#include "quant/affine.h"

namespace lowkey {
namespace {

void put(std::string& bytes, const void* data, size_t size) {
  bytes.append(static_cast<const char*>(data), size);
}

void put_exact(std::string& bytes, const std::vector<float>& row, int32_t bits) {
  for (float x : row) {
    const Half h = float_to_half(x);
    bits == 32 ? put(bytes, &x, 4) : put(bytes, &h, 2);
  }
}

}  // namespace

ResolvedRecipe resolve(const std::string& text, const KvShape& shape) {
  const size_t blank = text.find(" w");
  if (blank == std::string::npos) return resolve_recipe(parse_recipe(text), shape);
  KvShape windowed = shape;
  std::istringstream windows(text.substr(blank + 2));
  for (std::string window; std::getline(windows, window, ',');) {
    windowed.windows.push_back(std::stoi(window));
  }
  return resolve_recipe(parse_recipe(text.substr(0, blank)), windowed);
}

Token random_token(SplitMix64& rng, const KvShape& shape) {
  Token token;
  const auto count = static_cast<size_t>(shape.num_layers * shape.num_kv_heads * shape.head_dim);
  for (std::vector<float>* side : {&token.k, &token.v}) {
    side->resize(count);
    for (float& x : *side)
      x = static_cast<float>((rng.uniform() - 0.5) * (rng.below(50) == 0 ? 2e4 : 4.0));
    if (rng.below(40) == 0) std::fill(side->begin(), side->end(), 0.25f);  // constant groups
  }
  return token;
}

std::vector<Token> random_tokens(size_t count, const KvShape& shape, uint64_t seed) {
  SplitMix64 rng(seed);
  std::vector<Token> tokens;
  for (size_t i = 0; i < count; ++i) tokens.push_back(random_token(rng, shape));
  return tokens;
}

std::vector<Token> first_of(const std::vector<Token>& tokens, size_t count) {
  return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count)};
}

std::shared_ptr<const IntactPrefix> prefix_of(const std::vector<Token>& tokens, size_t count,
                                              const KvShape& shape) {
  auto prefix = std::make_shared<IntactPrefix>();
  prefix->num_layers = shape.num_layers;
  prefix->num_kv_heads = shape.num_kv_heads;
  prefix->head_dim = shape.head_dim;
  for (size_t t = 0; t < count; ++t) prefix->tokens.push_back(static_cast<int32_t>(t));
  for (const bool key : {true, false}) {
    for (int32_t head = 0; head < shape.num_layers * shape.num_kv_heads; ++head) {
      for (size_t t = 0; t < count; ++t) {
        const float* row = (key ? tokens[t].k : tokens[t].v).data() + head * shape.head_dim;
        for (int32_t c = 0; c < shape.head_dim; ++c) {
          (key ? prefix->k : prefix->v).push_back(float_to_half(row[c]));
        }
      }
    }
  }
  return prefix;
}

std::string naive_state(const ResolvedRecipe& recipe, const std::vector<Token>& tokens,
                        int32_t layer, int32_t head, Side which) {
  const ResolvedLayer& l = recipe.layers[static_cast<size_t>(layer)];
  const HeadRecipe& h = l.heads[static_cast<size_t>(head)];
  const SideRecipe& side = which == Side::kKey ? h.k : h.v;
  const int32_t dim = recipe.shape.head_dim;
  const auto length = static_cast<int64_t>(tokens.size());
  const int64_t prefix = std::min<int64_t>(recipe.intact_prefix, length);
  const int64_t after = length - prefix;
  const int64_t R = l.residual_length;

  int64_t stored = after;
  if (side.bits < 16) {
    const bool block = side.axis == QuantAxis::kPerChannel || l.window == WindowRule::kBlock;
    stored = block ? after / R * R : std::max<int64_t>(0, after - R);
  }
  auto row = [&](int64_t index) {
    const Token& token = tokens[static_cast<size_t>(index)];
    const std::vector<float>& all = which == Side::kKey ? token.k : token.v;
    const auto* begin = all.data() + (layer * recipe.shape.num_kv_heads + head) * dim;
    return std::vector<float>(begin, begin + dim);
  };
  std::vector<std::vector<float>> rounded;  // tokens after the prefix, as f16 holds them
  for (int64_t t = 0; t < stored && side.bits < 16; ++t) {
    rounded.push_back(row(prefix + t));
    for (float& value : rounded.back()) value = half_to_float(float_to_half(value));
  }
  // The parameters of the group that element (t, c) belongs to; computed at the group's first
  // element.
  std::map<std::pair<int64_t, int64_t>, AffineParams> params_of;
  auto group_params = [&](int64_t t, int32_t c) {
    const bool per_channel = side.axis == QuantAxis::kPerChannel;
    const auto key = per_channel ? std::pair<int64_t, int64_t>(t / side.group_size, c)
                                 : std::pair<int64_t, int64_t>(t, c / side.group_size);
    const auto known = params_of.find(key);
    if (known != params_of.end()) return known->second;
    std::vector<float> group;
    for (int64_t i = 0; i < side.group_size; ++i) {
      const int64_t token = per_channel ? key.first * side.group_size + i : t;
      const int64_t channel = per_channel ? c : key.second * side.group_size + i;
      group.push_back(rounded[static_cast<size_t>(token)][static_cast<size_t>(channel)]);
    }
    return params_of[key] = affine_params(group.data(), side.group_size, 1, side.bits);
  };

  // Stored tokens lie in pages of 128; a page whose last position no later query sees is not held.
  const int32_t window = recipe.shape.window(layer);
  int64_t first = 0;
  while (window > 0 && first < stored && prefix + first / 128 * 128 + 127 <= length - window)
    ++first;

  std::string bytes = fmt::format("{} {} {}", length, stored, after - stored);
  if (window > 0) bytes += fmt::format(" from {}", first);
  bytes += '\n';
  for (int64_t t = 0; t < prefix; ++t) put_exact(bytes, row(t), side.bits);
  for (int64_t t = first; t < stored; ++t) {
    if (side.bits >= 16) {
      put_exact(bytes, row(prefix + t), side.bits);
      continue;
    }
    for (int32_t c = 0; c < dim; ++c) {
      const AffineParams params = group_params(t, c);
      const float value = rounded[static_cast<size_t>(t)][static_cast<size_t>(c)];
      const uint8_t code = affine_code(value, params, side.bits);
      put(bytes, &code, 1);
      put(bytes, &params.scale, 2);
      put(bytes, &params.zero_point, 2);
    }
  }
  if (side.bits < 16) {
    for (int64_t t = stored; t < after; ++t) put_exact(bytes, row(prefix + t), side.bits);
  }
  return bytes;
}

void append_tokens(KvSequence& sequence, const ResolvedRecipe& recipe,
                   const std::vector<Token>& tokens, size_t first, size_t last) {
  AppendStage stage;
  const auto width = static_cast<size_t>(recipe.shape.num_kv_heads * recipe.shape.head_dim);
  for (int32_t layer = 0; layer < recipe.shape.num_layers; ++layer) {
    std::vector<float> k, v;
    for (size_t t = first; t < last; ++t) {
      const auto offset = static_cast<std::ptrdiff_t>(static_cast<size_t>(layer) * width);
      k.insert(k.end(), tokens[t].k.begin() + offset,
               tokens[t].k.begin() + offset + static_cast<std::ptrdiff_t>(width));
      v.insert(v.end(), tokens[t].v.begin() + offset,
               tokens[t].v.begin() + offset + static_cast<std::ptrdiff_t>(width));
    }
    sequence.append(layer, k.data(), v.data(), static_cast<int64_t>(last - first), stage);
    sequence.commit(layer, stage);
  }
}

std::string state_difference(const KvSequence& sequence, const ResolvedRecipe& recipe,
                             const std::vector<Token>& tokens) {
  if (sequence.length() != static_cast<int64_t>(tokens.size())) {
    return fmt::format("length {} instead of {}", sequence.length(), tokens.size());
  }
  for (int32_t layer = 0; layer < recipe.shape.num_layers; ++layer) {
    for (int32_t head = 0; head < recipe.shape.num_kv_heads; ++head) {
      for (Side side : {Side::kKey, Side::kValue}) {
        if (sequence.state_bytes(layer, head, side) ==
            naive_state(recipe, tokens, layer, head, side))
          continue;
        return fmt::format("layer {} head {} {} differs at length {}", layer, head,
                           side == Side::kKey ? "K" : "V", tokens.size());
      }
    }
  }
  return "";
}

}  // namespace lowkey
