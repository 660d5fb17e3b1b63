#include <cmath>
#include <vector>

#include "attention/attend.h"
#include "core/error.h"
#include "quant/pack.h"

namespace lowkey {
namespace {

// Element `channel` of token `position` (absolute) as a query sees it that has `stored` tokens in
// packed form.
float element(const LayerView& view, const HeadView& head, const SideView& side, int64_t stored,
              int64_t position, int32_t channel) {
  auto exact = [&](const ExactRows& rows, int64_t index) {
    const auto offset = static_cast<size_t>((index - rows.first) * view.head_dim + channel);
    if (side.layout->bits() == 32) return reinterpret_cast<const float*>(rows.rows)[offset];
    return half_to_float(reinterpret_cast<const Half*>(rows.rows)[offset]);
  };
  if (position < view.intact_prefix) return exact(side.prefix, position);
  const int64_t token = position - view.intact_prefix;
  if (token < stored) {
    LOWKEY_CHECK(head.holds(token / kPageTokens), "token {} is in no page", token);
    const std::byte* page = head.page(token / kPageTokens) + side.page_offset;
    return read_element(*side.layout, page, static_cast<int32_t>(token % kPageTokens), channel);
  }
  for (const ExactRows& rows : side.exact) {
    if (token >= rows.first && token < rows.first + rows.count) return exact(rows, token);
  }
  LOWKEY_CHECK(false, "token {} is neither packed nor exact", token);
}

// All tokens the query at `position` looks at, one side, decoded: [tokens, head_dim].
std::vector<float> decode_side(const LayerView& view, const HeadView& head, const SideView& side,
                               int64_t position) {
  const int64_t stored = view.stored_for(side, position);
  std::vector<float> rows;
  const int64_t first = view.first_seen(position);
  rows.reserve(static_cast<size_t>((position + 1 - first) * view.head_dim));
  for (int64_t t = first; t <= position; ++t) {
    for (int32_t c = 0; c < view.head_dim; ++c) {
      rows.push_back(element(view, head, side, stored, t, c));
    }
  }
  return rows;
}

void attend_query(const AttendArgs& args, int64_t qo_head, const std::vector<float>& keys,
                  const std::vector<float>& values, int32_t head_dim, const float* q, float* out) {
  const auto count = static_cast<int64_t>(keys.size()) / head_dim;
  std::vector<double> weights(static_cast<size_t>(count));
  double top = -INFINITY;
  for (int64_t t = 0; t < count; ++t) {
    double dot = 0;
    for (int32_t c = 0; c < head_dim; ++c) {
      dot += static_cast<double>(q[c]) * keys[static_cast<size_t>(t * head_dim + c)];
    }
    double score = dot * args.scale;
    if (args.softcap != 0.0f) score = args.softcap * std::tanh(score / args.softcap);
    if (!args.alibi_slopes.empty()) {
      // The last key is the query's own.
      score += args.alibi_slopes[static_cast<size_t>(qo_head)] * static_cast<double>(t + 1 - count);
    }
    weights[static_cast<size_t>(t)] = score;
    top = std::max(top, score);
  }
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - top);
  for (int32_t c = 0; c < head_dim; ++c) {
    double mixed = 0;
    for (int64_t t = 0; t < count; ++t) {
      mixed += weights[static_cast<size_t>(t)] * values[static_cast<size_t>(t * head_dim + c)];
    }
    out[c] = static_cast<float>(mixed / sum);
  }
}

}  // namespace

void attend_ref(const AttendArgs& args) {
  for (const AttendItem& item : args.items) {
    const LayerView& view = *item.view;
    const int32_t group = args.num_qo_heads / static_cast<int32_t>(view.heads.size());
    for (int64_t i = 0; i < view.num_tokens; ++i) {
      for (size_t kv = 0; kv < view.heads.size(); ++kv) {
        const HeadView& head = view.heads[kv];
        const std::vector<float> keys = decode_side(view, head, head.k, view.position + i);
        const std::vector<float> values = decode_side(view, head, head.v, view.position + i);
        for (int32_t g = 0; g < group; ++g) {
          const int64_t h = static_cast<int64_t>(kv) * group + g;
          const int64_t row = (i * args.num_qo_heads + h) * view.head_dim;
          attend_query(args, h, keys, values, view.head_dim, item.q + row, item.out + row);
        }
      }
    }
  }
}

}  // namespace lowkey
