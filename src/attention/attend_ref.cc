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
    const std::byte* page = head.pages[token / kPageTokens].data() + side.page_offset;
    return read_element(*side.layout, page, static_cast<int32_t>(token % kPageTokens), channel);
  }
  for (const ExactRows& rows : side.exact) {
    if (token >= rows.first && token < rows.first + rows.count) return exact(rows, token);
  }
  LOWKEY_CHECK(false, "token {} is neither packed nor exact", token);
}

void attend_query(const LayerView& view, const HeadView& head, int64_t position, const float* q,
                  float scale, float* out) {
  const int64_t stored_k = view.stored_for(head.k, position);
  const int64_t stored_v = view.stored_for(head.v, position);
  std::vector<double> weights(static_cast<size_t>(position + 1));
  double top = -INFINITY;
  for (int64_t t = 0; t <= position; ++t) {
    double dot = 0;
    for (int32_t c = 0; c < view.head_dim; ++c) {
      dot += static_cast<double>(q[c]) * element(view, head, head.k, stored_k, t, c);
    }
    weights[static_cast<size_t>(t)] = dot * scale;
    top = std::max(top, dot * scale);
  }
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - top);
  for (int32_t c = 0; c < view.head_dim; ++c) {
    double mixed = 0;
    for (int64_t t = 0; t <= position; ++t) {
      mixed += weights[static_cast<size_t>(t)] * element(view, head, head.v, stored_v, t, c);
    }
    out[c] = static_cast<float>(mixed / sum);
  }
}

}  // namespace

void attend_ref(const AttendArgs& args) {
  for (const AttendItem& item : args.items) {
    const LayerView& view = *item.view;
    const auto num_kv_heads = static_cast<int32_t>(view.heads.size());
    const int32_t group = args.num_qo_heads / num_kv_heads;
    for (int64_t i = 0; i < view.num_tokens; ++i) {
      for (int32_t h = 0; h < args.num_qo_heads; ++h) {
        const int64_t row = (i * args.num_qo_heads + h) * view.head_dim;
        attend_query(view, view.heads[static_cast<size_t>(h / group)], view.position + i,
                     item.q + row, args.scale, item.out + row);
      }
    }
  }
}

}  // namespace lowkey
