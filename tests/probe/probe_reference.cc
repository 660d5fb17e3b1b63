#include "probe_reference.h"

#include <algorithm>

#include "core/half.h"

namespace lowkey::test {
namespace {

double to_f16(double x) {
  return static_cast<double>(half_to_float(float_to_half(static_cast<float>(x))));
}

class Capture final : public StepWatcher {
 public:
  std::vector<std::vector<float>> q, k, v, residuals;
  Capture(size_t q_width, size_t kv_width, size_t hidden)
      : q_width_(q_width), kv_width_(kv_width), hidden_(hidden) {}
  void residual(int32_t, const float* x, int64_t rows) override {
    residuals.emplace_back(x, x + static_cast<size_t>(rows) * hidden_);
  }
  void attention(int32_t, const float* q_rows, const float* k_rows, const float* v_rows,
                 int64_t rows) override {
    const auto n = static_cast<size_t>(rows);
    q.emplace_back(q_rows, q_rows + n * q_width_);
    k.emplace_back(k_rows, k_rows + n * kv_width_);
    v.emplace_back(v_rows, v_rows + n * kv_width_);
  }

 private:
  size_t q_width_, kv_width_, hidden_;
};

Rows head_rows(const std::vector<float>& x, size_t heads, size_t head, size_t dim, bool round) {
  Rows rows(x.size() / (heads * dim), std::vector<double>(dim));
  for (size_t t = 0; t < rows.size(); ++t) {
    for (size_t c = 0; c < dim; ++c) {
      const auto value = static_cast<double>(x[(t * heads + head) * dim + c]);
      rows[t][c] = round ? to_f16(value) : value;
    }
  }
  return rows;
}

// x ~ scale * code + minimum, both f16; tokens [t, t + tokens) x channels [c, c + channels).
void quantize(const Rows& from, size_t t, size_t tokens, size_t c, size_t channels, int32_t bits,
              Rows& x, Rows& step) {
  double least = 1e30, most = -1e30;
  for (size_t i = t; i < t + tokens; ++i) {
    for (size_t j = c; j < c + channels; ++j) {
      least = std::min(least, from[i][j]);
      most = std::max(most, from[i][j]);
    }
  }
  const double top = std::pow(2, bits) - 1;
  const double scale = to_f16((most - least) / top);
  for (size_t i = t; i < t + tokens; ++i) {
    for (size_t j = c; j < c + channels; ++j) {
      const double code = std::nearbyint(std::clamp((from[i][j] - least) / scale, 0.0, top));
      x[i][j] = least + scale * code;
      step[i][j] = scale;
    }
  }
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (double value : x) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace

ProbeReferenceModel::ProbeReferenceModel(Engine& engine, int32_t intact_prefix, int64_t max_queries)
    : engine_(engine), prefix_(intact_prefix), max_queries_(max_queries) {
  const ModelConfig& config = engine.model().config();
  heads_ = static_cast<size_t>(config.num_qo_heads);
  group_ = heads_ / static_cast<size_t>(config.num_kv_heads);
  dim_ = static_cast<size_t>(config.head_dim);
}

ProbeReferenceModel::Text ProbeReferenceModel::capture(const Document& document,
                                                       const std::string& recipe) const {
  const ModelConfig& config = engine_.model().config();
  const size_t kv_heads = heads_ / group_;
  const auto hidden = static_cast<size_t>(config.hidden_size);
  Capture seen(heads_ * dim_, kv_heads * dim_, hidden);
  KvCache cache(resolve_recipe(parse_recipe(recipe), engine_.kv_shape()));
  KvSequence sequence = cache.new_sequence();
  std::vector<float> out(document.tokens.size() * hidden);
  const StepItem item{&sequence, document.tokens, RowsWanted::kAll};
  engine_.model().forward({&item, 1}, out.data(), {.watcher = &seen});

  Text text;
  std::vector<int64_t> all;
  for (const TokenRange& range : document.scored) {
    for (int64_t target = range.first; target < range.last; ++target) all.push_back(target - 1);
  }
  const int64_t count = std::min<int64_t>(max_queries_, std::ssize(all));
  for (int64_t i = 1; i <= count; ++i) {
    text.queries.push_back(all[static_cast<size_t>(i * std::ssize(all) / count - 1)]);
  }
  for (size_t l = 0; l < seen.q.size(); ++l) {
    Layer layer;
    for (size_t h = 0; h < heads_; ++h) {
      layer.q.push_back(head_rows(seen.q[l], heads_, h, dim_, false));
    }
    for (size_t h = 0; h < kv_heads; ++h) {
      layer.k.push_back(head_rows(seen.k[l], kv_heads, h, dim_, true));
      layer.v.push_back(head_rows(seen.v[l], kv_heads, h, dim_, true));
    }
    text.layers.push_back(std::move(layer));
  }
  for (const std::vector<float>& x : seen.residuals) {
    text.residuals.push_back(head_rows(x, 1, 0, hidden, false));
  }
  return text;
}

void ProbeReferenceModel::add(const Document& document) {
  texts_.push_back(capture(document, "16"));
}

// KIVI's windows: per channel the newest n mod R tokens are exact, per token the newest R (or, by
// blocks, n mod R too).
ProbeReferenceModel::Form ProbeReferenceModel::form(const Rows& x, const SideRecipe& side,
                                                    const LayerRecipe& layer) const {
  Form form{x, Rows(x.size(), std::vector<double>(dim_, 0.0)), prefix_, prefix_, {}};
  const int64_t R = layer.residual_length;
  const bool channels = side.axis == QuantAxis::kPerChannel;
  const auto packed_of = [&](int64_t n) -> int64_t {
    if (!side.packed() || n <= 0) return 0;
    if (channels || layer.window == WindowRule::kBlock) return n / R * R;
    return std::max<int64_t>(0, n - R);
  };
  form.last = prefix_ + packed_of(std::ssize(x) - prefix_);
  for (int64_t p = 0; p < std::ssize(x); ++p) form.seen.push_back(prefix_ + packed_of(p - prefix_));
  const size_t group =
      side.group_size == kGroupIsHeadDim ? dim_ : static_cast<size_t>(side.group_size);
  const size_t tokens = channels ? group : 1, width = channels ? 1 : group;
  for (int64_t t = form.first; t < form.last; t += static_cast<int64_t>(tokens)) {
    for (size_t c = 0; c < dim_; c += width) {
      quantize(x, static_cast<size_t>(t), tokens, c, width, side.bits, form.x, form.step);
    }
  }
  return form;
}

ProbeReferenceModel::Form ProbeReferenceModel::axis_form(const Rows& x, QuantAxis axis,
                                                         int32_t bits) const {
  Form form{x, Rows(x.size(), std::vector<double>(dim_, 0.0)), prefix_, prefix_, {}};
  const bool channels = axis == QuantAxis::kPerChannel;
  form.last = prefix_ + (std::ssize(x) - prefix_) / 32 * 32;
  for (int64_t p = 0; p < std::ssize(x); ++p) form.seen.push_back(std::min(p, form.last));
  for (int64_t t = form.first; t < form.last; t += channels ? 32 : 1) {
    for (size_t c = 0; c < dim_; c += channels ? 1 : 32) {
      quantize(x, static_cast<size_t>(t), channels ? 32 : 1, c, channels ? 1 : 32, bits, form.x,
               form.step);
    }
  }
  return form;
}

ProbeReferenceModel::Looked ProbeReferenceModel::look(const Text& text, size_t layer, size_t head,
                                                      int64_t position, const Form* k,
                                                      const Form* v) const {
  const Layer& l = text.layers[layer];
  const auto at = static_cast<size_t>(position);
  const auto row = [&](const Form* form, const Rows& exact,
                       size_t t) -> const std::vector<double>& {
    return form && static_cast<int64_t>(t) < form->seen[at] ? form->x[t] : exact[t];
  };
  Looked looked;
  double top = -1e30;
  for (size_t t = 0; t <= at; ++t) {
    double dot = 0;
    const std::vector<double>& key = row(k, l.k[kv_of(head)], t);
    for (size_t c = 0; c < dim_; ++c) dot += l.q[head][at][c] * key[c];
    looked.scores.push_back(dot / std::sqrt(static_cast<double>(dim_)));
    top = std::max(top, looked.scores.back());
  }
  double sum = 0;
  for (double score : looked.scores) {
    looked.p.push_back(std::exp(score - top));
    sum += looked.p.back();
  }
  looked.out.assign(dim_, 0.0);
  for (size_t t = 0; t <= at; ++t) {
    looked.p[t] /= sum;
    const std::vector<double>& value = row(v, l.v[kv_of(head)], t);
    for (size_t c = 0; c < dim_; ++c) looked.out[c] += looked.p[t] * value[c];
  }
  return looked;
}

ReferenceErrors ProbeReferenceModel::candidate(size_t layer, const LayerRecipe& recipe) const {
  ReferenceErrors errors;
  errors.heads.resize(heads_);
  double queries = 0;
  for (const Text& text : texts_) queries += static_cast<double>(text.queries.size());
  const auto heads = static_cast<double>(heads_);
  for (size_t h = 0; h < heads_; ++h) {
    double k_error = 0, k_bias = 0, k_size = 0, v_error = 0, v_size = 0;
    double s_bias = 0, s_size = 0, a_error = 0, o_error = 0, o_bias = 0, o_size = 0;
    for (const Text& text : texts_) {
      const Rows& exact_k = text.layers[layer].k[kv_of(h)];
      const Rows& exact_v = text.layers[layer].v[kv_of(h)];
      const Form k = form(exact_k, recipe.k, recipe), v = form(exact_v, recipe.v, recipe);
      for (size_t c = 0; c < dim_; ++c) {
        for (auto t = static_cast<size_t>(k.first); t < static_cast<size_t>(k.last); ++t) {
          k_error += std::abs(k.x[t][c] - exact_k[t][c]);
          k_bias += k.x[t][c] - exact_k[t][c];
          k_size += std::abs(exact_k[t][c]);
        }
        for (auto t = static_cast<size_t>(v.first); t < static_cast<size_t>(v.last); ++t) {
          v_error += std::abs(v.x[t][c] - exact_v[t][c]);
          v_size += std::abs(exact_v[t][c]);
        }
      }
      for (int64_t p : text.queries) {
        const Looked was = look(text, layer, h, p, nullptr, nullptr);
        const Looked now = look(text, layer, h, p, &k, &v);
        double change = 0;
        for (size_t t = 0; t < was.p.size(); ++t) {
          change += std::abs(now.p[t] - was.p[t]);
          if (static_cast<int64_t>(t) < prefix_ ||
              static_cast<int64_t>(t) >= k.seen[static_cast<size_t>(p)]) {
            continue;
          }
          s_bias += now.scores[t] - was.scores[t];
          s_size += std::abs(was.scores[t]);
        }
        a_error += change / static_cast<double>(p + 1);
        for (size_t c = 0; c < dim_; ++c) {
          o_error += std::abs(now.out[c] - was.out[c]);
          o_bias += now.out[c] - was.out[c];
          o_size += std::abs(was.out[c]);
        }
      }
    }
    HeadErrors& head = errors.heads[h];
    head.e_k = k_size > 0 ? k_error / k_size : 0;
    head.e_a = a_error / queries;
    head.e_o = o_error / o_size;
    errors.e_k += head.e_k / heads;
    errors.e_v += (v_size > 0 ? v_error / v_size : 0) / heads;
    errors.e_a += head.e_a / heads;
    errors.e_o += head.e_o / heads;
    errors.bias_k += (k_size > 0 ? k_bias / k_size : 0) / heads;
    errors.bias_score += (s_size > 0 ? s_bias / s_size : 0) / heads;
    errors.bias_o += o_bias / o_size / heads;
  }
  return errors;
}

ReferenceAxis ProbeReferenceModel::axis(size_t layer, Side side, QuantAxis axis,
                                        int32_t bits) const {
  ReferenceAxis result;
  for (size_t h = 0; h < heads_; ++h) {
    double error = 0, size = 0, o_error = 0, o_size = 0;
    for (const Text& text : texts_) {
      const Layer& l = text.layers[layer];
      const Rows& exact = side == Side::kKey ? l.k[kv_of(h)] : l.v[kv_of(h)];
      const Form form = axis_form(exact, axis, bits);
      for (auto t = static_cast<size_t>(form.first); t < static_cast<size_t>(form.last); ++t) {
        for (size_t c = 0; c < dim_; ++c) {
          error += std::abs(form.x[t][c] - exact[t][c]);
          size += std::abs(exact[t][c]);
        }
      }
      for (int64_t p : text.queries) {
        const Looked was = look(text, layer, h, p, nullptr, nullptr);
        const Looked now = look(text, layer, h, p, side == Side::kKey ? &form : nullptr,
                                side == Side::kKey ? nullptr : &form);
        for (size_t c = 0; c < dim_; ++c) {
          o_error += std::abs(now.out[c] - was.out[c]);
          o_size += std::abs(was.out[c]);
        }
      }
    }
    result.error += error / size / static_cast<double>(heads_);
    result.e_o += o_error / o_size / static_cast<double>(heads_);
  }
  return result;
}

ReferenceNoise ProbeReferenceModel::noise(size_t layer, const LayerRecipe& recipe) const {
  double variance = 0, sum = 0, squares = 0, count = 0;
  for (size_t h = 0; h < heads_; ++h) {
    for (const Text& text : texts_) {
      const Layer& l = text.layers[layer];
      const Form k = form(l.k[kv_of(h)], recipe.k, recipe);
      for (int64_t p : text.queries) {
        const Looked was = look(text, layer, h, p, nullptr, nullptr);
        const Looked now = look(text, layer, h, p, &k, nullptr);
        const std::vector<double>& q = l.q[h][static_cast<size_t>(p)];
        for (auto t = static_cast<size_t>(prefix_);
             static_cast<int64_t>(t) < std::min(p + 1, k.seen[static_cast<size_t>(p)]); ++t) {
          const double error = now.scores[t] - was.scores[t];
          sum += error;
          squares += error * error;
          ++count;
          for (size_t c = 0; c < dim_; ++c) {
            variance += std::pow(q[c] * k.step[t][c], 2) / (12 * static_cast<double>(dim_));
          }
        }
      }
    }
  }
  if (count == 0) return {};
  return {std::sqrt(variance / count), std::sqrt(squares / count - sum / count * (sum / count))};
}

AttentionShape ProbeReferenceModel::shape(size_t layer, size_t head) const {
  AttentionShape shape;
  double queries = 0;
  for (const Text& text : texts_) {
    for (int64_t p : text.queries) {
      std::vector<double> weights = look(text, layer, head, p, nullptr, nullptr).p;
      for (double x : weights) shape.entropy -= x > 0 ? x * std::log(x) : 0;
      shape.sink_share += weights[0];
      std::sort(weights.rbegin(), weights.rend());
      const auto most =
          static_cast<size_t>(std::max(1.0, std::ceil(0.05 * static_cast<double>(weights.size()))));
      for (size_t i = 0; i < most; ++i) shape.top_share += weights[i];
      ++queries;
    }
  }
  shape.entropy /= queries;
  shape.top_share /= queries;
  shape.sink_share /= queries;
  return shape;
}

std::pair<int64_t, size_t> ProbeReferenceModel::most_shifted(size_t layer,
                                                             const LayerRecipe& recipe) const {
  std::pair<int64_t, size_t> most;
  double largest = 0;
  for (size_t h = 0; h < heads_; ++h) {
    const Rows& exact = texts_[0].layers[layer].k[kv_of(h)];
    const Form k = form(exact, recipe.k, recipe);
    for (int64_t p : texts_[0].queries) {
      const Looked was = look(texts_[0], layer, h, p, nullptr, nullptr);
      const Looked now = look(texts_[0], layer, h, p, &k, nullptr);
      double change = 0;
      for (size_t t = 0; t < was.p.size(); ++t) change += std::abs(now.p[t] - was.p[t]);
      if (change > largest) most = {p, h};
      largest = std::max(largest, change);
    }
  }
  return most;
}

ReferenceDepth ProbeReferenceModel::depth(const Document& document, const std::string& recipe,
                                          const LayerRecipe& layer, const TinyModel& model) const {
  const Text& exact = texts_[0];
  const Text perturbed = capture(document, recipe);
  const size_t layers = exact.layers.size();
  ReferenceDepth depth{std::vector<double>(layers + 1, 0.0), std::vector<double>(layers + 1, 0.0)};
  for (int64_t p : exact.queries) {
    const auto at = static_cast<size_t>(p);
    double injected = 0;
    for (size_t l = 0; l <= layers; ++l) {
      const std::vector<double>& h = exact.residuals[l][at];
      std::vector<double> difference = perturbed.residuals[l][at];
      for (size_t c = 0; c < h.size(); ++c) difference[c] -= h[c];
      const double share = 1 / static_cast<double>(exact.queries.size());
      depth.relative_error[l] += share * norm(difference) / norm(h);
      depth.independent[l] += share * std::sqrt(injected) / norm(h);
      if (l == layers) break;
      std::vector<double> concatenated;
      for (size_t head = 0; head < heads_; ++head) {
        const Form k = form(exact.layers[l].k[kv_of(head)], layer.k, layer);
        const Form v = form(exact.layers[l].v[kv_of(head)], layer.v, layer);
        const Looked was = look(exact, l, head, p, nullptr, nullptr);
        const Looked now = look(exact, l, head, p, &k, &v);
        for (size_t c = 0; c < dim_; ++c) concatenated.push_back(now.out[c] - was.out[c]);
      }
      const TinyTensor& o = model.tensor("layers." + std::to_string(l) + ".o.weight");
      for (size_t r = 0; r < h.size(); ++r) {
        double y = 0;
        for (size_t c = 0; c < concatenated.size(); ++c) {
          y += static_cast<double>(o.values[r * concatenated.size() + c]) * concatenated[c];
        }
        injected += y * y;
      }
    }
  }
  return depth;
}

}  // namespace lowkey::test
