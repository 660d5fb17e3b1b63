#include "model/reference_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

#include "core/half.h"
#include "model/rope.h"

namespace lowkey::test {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

class Reference {
 public:
  Reference(const ModelConfig& config, const FindTensor& find, WeightStorage storage)
      : find_(find), c_(config), storage_(storage) {}

  Rows hidden_states(std::span<const int32_t> tokens) const {
    const Rows table = matrix("embed.weight");
    Rows x;
    for (int32_t token : tokens) {
      x.push_back(table[static_cast<size_t>(token)]);
      for (double& value : x.back()) value *= c_.embedding_scale;
    }
    if (c_.learned_positions) {
      const Rows positions = matrix("positions.weight");
      for (size_t t = 0; t < x.size(); ++t) {
        add(x[t], positions[t + static_cast<size_t>(c_.position_offset)]);
      }
    }
    for (int32_t l = 0; l < c_.num_layers; ++l) {
      const std::string p = fmt::format("layers.{}.", l);
      const LayerConfig& layer = c_.layers[static_cast<size_t>(l)];
      const Rows before = x;
      const Rows n = norm(x, p + "attn_norm");
      Rows added = linear(attention(layer, p, n), p + "o");
      if (c_.post_norms) added = norm(added, p + "post_attn_norm");
      add(x, added);
      const Rows m = c_.parallel ? (c_.shared_norm ? n : norm(before, p + "mlp_norm"))
                                 : norm(x, p + "mlp_norm");
      added = layer.experts ? mixture(p, m) : mlp(p, m);
      if (c_.post_norms) added = norm(added, p + "post_mlp_norm");
      add(x, added);
    }
    return norm(x, "final_norm");
  }

  Rows logits(const Rows& hidden) const {
    Rows y = multiply(hidden, matrix(c_.tied_embeddings ? "embed.weight" : "head.weight"));
    for (Row& row : y) {
      for (double& value : row) value = capped(value, c_.logit_softcap);
    }
    return y;
  }

 private:
  const TensorView& tensor(const std::string& name) const {
    const TensorView* view = find_(name);
    if (!view) throw std::runtime_error("the reference misses " + name);
    return *view;
  }

  // Routers stay as the file has them.
  Rows matrix(const std::string& name, bool may_round = true) const {
    const TensorView& view = tensor(name);
    const bool round = may_round && storage_ == WeightStorage::kBF16;
    std::vector<float> row(static_cast<size_t>(view.cols()));
    Rows rows;
    for (int64_t r = 0; r < view.rows(); ++r) {
      dequantize_rows(view, r, 1, row.data());
      rows.emplace_back();
      for (float w : row) {
        rows.back().push_back(round ? bfloat16_to_float(float_to_bfloat16(w)) : w);
      }
    }
    return rows;
  }

  Row vector(const std::string& name) const {
    const std::vector<float> values = make_vector(tensor(name));
    return {values.begin(), values.end()};
  }

  static Rows multiply(const Rows& x, const Rows& w) {
    Rows y(x.size(), Row(w.size()));
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t r = 0; r < w.size(); ++r) {
        for (size_t i = 0; i < w[r].size(); ++i) y[t][r] += w[r][i] * x[t][i];
      }
    }
    return y;
  }

  Rows linear(const Rows& x, const std::string& name) const {
    Rows y = multiply(x, matrix(name + ".weight"));
    if (!find_(name + ".bias")) return y;
    const Row bias = vector(name + ".bias");
    for (Row& row : y) add(row, bias);
    return y;
  }

  static void add(Row& x, const Row& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  static void add(Rows& x, const Rows& y) {
    for (size_t t = 0; t < x.size(); ++t) add(x[t], y[t]);
  }

  static double capped(double x, double cap) { return cap == 0 ? x : cap * std::tanh(x / cap); }

  Row weights_of_norm(const std::string& name) const {
    Row weight = vector(name + ".weight");
    for (double& w : weight) w += c_.norm_plus_one ? 1 : 0;
    return weight;
  }

  void rms(std::span<double> x, const Row& weight) const {
    double squares = 0;
    for (double value : x) squares += value * value;
    const double size = std::sqrt(squares / static_cast<double>(x.size()) + c_.norm_eps);
    for (size_t i = 0; i < x.size(); ++i) x[i] = x[i] / size * weight[i];
  }

  Rows norm(Rows x, const std::string& name) const {
    const Row weight = weights_of_norm(name);
    for (Row& row : x) {
      if (c_.norm == NormKind::kRms) {
        rms(row, weight);
        continue;
      }
      const auto count = static_cast<double>(row.size());
      const double mean = std::accumulate(row.begin(), row.end(), 0.0) / count;
      double variance = 0;
      for (double value : row) variance += (value - mean) * (value - mean) / count;
      const double deviation = std::sqrt(variance + c_.norm_eps);
      for (size_t i = 0; i < row.size(); ++i) row[i] = (row[i] - mean) / deviation * weight[i];
      if (c_.norm_bias) add(row, vector(name + ".bias"));
    }
    return x;
  }

  double act(double x) const {
    switch (c_.activation) {
      case Activation::kSilu: return x / (1 + std::exp(-x));
      case Activation::kGelu: return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0)));
      case Activation::kGeluTanh: {
        const double inner = std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * std::pow(x, 3));
        return x * 0.5 * (1 + std::tanh(inner));
      }
      case Activation::kRelu: return std::max(x, 0.0);
    }
    return x;
  }

  Rows mlp(const std::string& prefix, const Rows& x) const {
    Rows y = linear(x, prefix + "up");
    const Rows gate = c_.gated_mlp ? linear(x, prefix + "gate") : Rows();
    for (size_t t = 0; t < y.size(); ++t) {
      for (size_t i = 0; i < y[t].size(); ++i) {
        y[t][i] = c_.gated_mlp ? act(gate[t][i]) * y[t][i] : act(y[t][i]);
      }
    }
    return linear(y, prefix + "down");
  }

  // Token by token: each of its experts in turn.
  Rows mixture(const std::string& prefix, const Rows& x) const {
    const Rows scores = multiply(x, matrix(prefix + "router.weight", false));
    Rows y(x.size(), Row(static_cast<size_t>(c_.hidden_size)));
    for (size_t t = 0; t < x.size(); ++t) {
      double sum = 0;
      std::vector<std::pair<double, int32_t>> best;  // probability, expert
      for (double score : scores[t]) sum += std::exp(score);
      for (size_t e = 0; e < scores[t].size(); ++e) {
        best.emplace_back(std::exp(scores[t][e]) / sum, static_cast<int32_t>(e));
      }
      std::stable_sort(best.begin(), best.end(),
                       [](const auto& a, const auto& b) { return a.first > b.first; });
      best.resize(static_cast<size_t>(c_.experts_per_token));
      double chosen = 0;
      for (const auto& [probability, e] : best) chosen += probability;
      for (const auto& [probability, e] : best) {
        const Rows out = mlp(fmt::format("{}experts.{}.", prefix, e), {x[t]});
        const double weight = c_.normalize_expert_weights ? probability / chosen : probability;
        for (size_t i = 0; i < y[t].size(); ++i) y[t][i] += weight * out[0][i];
      }
    }
    return y;
  }

  void rotate(Rows& x, int32_t heads, const RopeConfig& config) const {
    const RopeFrequencies rope(config);
    const auto half = static_cast<size_t>(rope.half_dim());
    for (size_t t = 0; t < x.size(); ++t) {
      for (int32_t h = 0; h < heads; ++h) {
        double* head = x[t].data() + h * c_.head_dim;
        for (size_t i = 0; i < half; ++i) {
          const double angle = static_cast<double>(t) * rope.inverse()[i];
          const double cos = std::cos(angle) * config.attention_factor;
          const double sin = std::sin(angle) * config.attention_factor;
          const double a = head[i], b = head[i + half];
          head[i] = a * cos - b * sin;
          head[i + half] = b * cos + a * sin;
        }
      }
    }
  }

  void norm_heads(Rows& x, int32_t heads, const std::string& name) const {
    const Row weight = weights_of_norm(name);
    const auto dim = static_cast<size_t>(c_.head_dim);
    for (Row& row : x) {
      for (size_t h = 0; h < static_cast<size_t>(heads); ++h) {
        rms(std::span(row).subspan(h * dim, dim), weight);
      }
    }
  }

  // Press et al. 2021 for any number of heads: the slopes of the power of two below, then every
  // second one of the next power's.
  double alibi_slope(int32_t head) const {
    int32_t power = 1;
    while (power * 2 <= c_.num_qo_heads) power *= 2;
    const double slope = head < power
                             ? std::pow(std::pow(2.0, -8.0 / power), head + 1)
                             : std::pow(std::pow(2.0, -4.0 / power), 2 * (head - power) + 1);
    return bfloat16_to_float(float_to_bfloat16(static_cast<float>(slope)));
  }

  Rows attention(const LayerConfig& layer, const std::string& prefix, const Rows& x) const {
    Rows q = linear(x, prefix + "q"), k = linear(x, prefix + "k");
    const Rows v = linear(x, prefix + "v");
    if (c_.qk_norm) {
      norm_heads(q, c_.num_qo_heads, prefix + "q_norm");
      norm_heads(k, c_.num_kv_heads, prefix + "k_norm");
    }
    if (layer.rope != RopeUse::kNone) {
      const RopeConfig& rope = layer.rope == RopeUse::kMain ? c_.rope : c_.local_rope;
      rotate(q, c_.num_qo_heads, rope);
      rotate(k, c_.num_kv_heads, rope);
    }
    const int32_t d = c_.head_dim, group = c_.num_qo_heads / c_.num_kv_heads;
    Rows out(x.size(), Row(static_cast<size_t>(c_.num_qo_heads * d)));
    for (size_t t = 0; t < x.size(); ++t) {
      const auto window = static_cast<size_t>(layer.window);
      const size_t first = window > 0 && t + 1 > window ? t + 1 - window : 0;
      for (int32_t h = 0; h < c_.num_qo_heads; ++h) {
        Row weights;
        double sum = 0;
        for (size_t s = first; s <= t; ++s) {
          double score = 0;
          for (int32_t i = 0; i < d; ++i) {
            score +=
                q[t][static_cast<size_t>(h * d + i)] * k[s][static_cast<size_t>(h / group * d + i)];
          }
          score = capped(score * c_.attention_scale, c_.attention_softcap);
          if (c_.alibi) {
            const double distance = static_cast<double>(s) - static_cast<double>(t);
            score += alibi_slope(h) * distance * c_.attention_scale;  // as Falcon
          }
          weights.push_back(std::exp(score));
          sum += weights.back();
        }
        for (size_t s = first; s <= t; ++s) {
          for (int32_t i = 0; i < d; ++i) {
            out[t][static_cast<size_t>(h * d + i)] +=
                weights[s - first] / sum * v[s][static_cast<size_t>(h / group * d + i)];
          }
        }
      }
    }
    return out;
  }

  const FindTensor& find_;
  const ModelConfig& c_;
  const WeightStorage storage_;
};

}  // namespace

std::vector<double> reference_logits(const ModelConfig& config, const FindTensor& find,
                                     std::span<const int32_t> tokens, WeightStorage storage) {
  const Reference reference(config, find, storage);
  std::vector<double> logits;
  for (const Row& row : reference.logits(reference.hidden_states(tokens))) {
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

std::vector<double> reference_logits(const ModelFile& file, std::span<const int32_t> tokens,
                                     WeightStorage storage) {
  const FindTensor find = [&](std::string_view name) { return file.find_tensor(name); };
  return reference_logits(file.config(), find, tokens, storage);
}

}  // namespace lowkey::test
