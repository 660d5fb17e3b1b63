#include "model/reference_llama.h"

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "core/half.h"
#include "model/rope.h"

namespace lowkey::test {
namespace {

using Rows = std::vector<std::vector<double>>;

class Reference {
 public:
  Reference(const ModelFile& file, WeightStorage storage)
      : file_(file), c_(file.config()), storage_(storage), rope_(c_.rope) {}

  Rows hidden_states(std::span<const int32_t> tokens) const {
    const Rows embedding = matrix("embed.weight");
    Rows x;
    for (int32_t token : tokens) x.push_back(embedding[static_cast<size_t>(token)]);
    for (int32_t layer = 0; layer < c_.num_layers; ++layer) {
      const std::string prefix = fmt::format("layers.{}.", layer);
      add(x, linear(attention(prefix, norm(x, prefix + "attn_norm.weight")), prefix + "o"));
      const Rows h = norm(x, prefix + "mlp_norm.weight");
      Rows gate = linear(h, prefix + "gate");
      const Rows up = linear(h, prefix + "up");
      for (size_t t = 0; t < gate.size(); ++t) {
        for (size_t i = 0; i < gate[t].size(); ++i) {
          gate[t][i] = gate[t][i] / (1.0 + std::exp(-gate[t][i])) * up[t][i];
        }
      }
      add(x, linear(gate, prefix + "down"));
    }
    return norm(x, "final_norm.weight");
  }

  Rows matrix(const std::string& name) const {
    const TensorView& view = file_.tensor(name);
    std::vector<float> row(static_cast<size_t>(view.cols()));
    Rows rows;
    for (int64_t r = 0; r < view.rows(); ++r) {
      dequantize_rows(view, r, 1, row.data());
      rows.emplace_back();
      for (float w : row) {
        const bool round = storage_ == WeightStorage::kBF16;
        rows.back().push_back(round ? bfloat16_to_float(float_to_bfloat16(w)) : w);
      }
    }
    return rows;
  }

  static Rows multiply(const Rows& x, const Rows& w) {
    Rows y(x.size(), std::vector<double>(w.size()));
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t r = 0; r < w.size(); ++r) {
        for (size_t i = 0; i < w[r].size(); ++i) y[t][r] += w[r][i] * x[t][i];
      }
    }
    return y;
  }

 private:
  std::vector<double> vector(const std::string& name) const {
    const std::vector<float> values = make_vector(file_.tensor(name));
    return {values.begin(), values.end()};
  }

  Rows norm(const Rows& x, const std::string& name) const {
    const std::vector<double> weight = vector(name);
    Rows y = x;
    for (std::vector<double>& row : y) {
      double squares = 0;
      for (double value : row) squares += value * value;
      const double factor = 1 / std::sqrt(squares / static_cast<double>(row.size()) + c_.norm_eps);
      for (size_t i = 0; i < row.size(); ++i) row[i] *= factor * weight[i];
    }
    return y;
  }

  Rows linear(const Rows& x, const std::string& name) const {
    Rows y = multiply(x, matrix(name + ".weight"));
    if (!file_.find_tensor(name + ".bias")) return y;
    const std::vector<double> bias = vector(name + ".bias");
    for (std::vector<double>& row : y) {
      for (size_t i = 0; i < row.size(); ++i) row[i] += bias[i];
    }
    return y;
  }

  static void add(Rows& x, const Rows& y) {
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
    }
  }

  void rotate(Rows& x, int32_t heads) const {
    const auto half = static_cast<size_t>(rope_.half_dim());
    for (size_t t = 0; t < x.size(); ++t) {
      for (int32_t h = 0; h < heads; ++h) {
        double* head = x[t].data() + h * c_.head_dim;
        for (size_t i = 0; i < half; ++i) {
          const double angle = static_cast<double>(t) * rope_.inverse()[i];
          const double a = head[i], b = head[i + half];
          head[i] = a * std::cos(angle) - b * std::sin(angle);
          head[i + half] = b * std::cos(angle) + a * std::sin(angle);
        }
      }
    }
  }

  Rows attention(const std::string& prefix, const Rows& x) const {
    Rows q = linear(x, prefix + "q"), k = linear(x, prefix + "k");
    const Rows v = linear(x, prefix + "v");
    rotate(q, c_.num_qo_heads);
    rotate(k, c_.num_kv_heads);
    const int32_t d = c_.head_dim, group = c_.num_qo_heads / c_.num_kv_heads;
    Rows out(x.size(), std::vector<double>(static_cast<size_t>(c_.num_qo_heads * d)));
    for (size_t t = 0; t < x.size(); ++t) {
      for (int32_t h = 0; h < c_.num_qo_heads; ++h) {
        std::vector<double> weights;
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double score = 0;
          for (int32_t i = 0; i < d; ++i) {
            score +=
                q[t][static_cast<size_t>(h * d + i)] * k[s][static_cast<size_t>(h / group * d + i)];
          }
          weights.push_back(std::exp(score / std::sqrt(d)));
          sum += weights.back();
        }
        for (size_t s = 0; s <= t; ++s) {
          for (int32_t i = 0; i < d; ++i) {
            out[t][static_cast<size_t>(h * d + i)] +=
                weights[s] / sum * v[s][static_cast<size_t>(h / group * d + i)];
          }
        }
      }
    }
    return out;
  }

  const ModelFile& file_;
  const ModelConfig& c_;
  const WeightStorage storage_;
  const RopeFrequencies rope_;
};

}  // namespace

std::vector<double> reference_logits(const ModelFile& file, std::span<const int32_t> tokens,
                                     WeightStorage storage) {
  const Reference reference(file, storage);
  const Rows head =
      reference.matrix(file.config().tied_embeddings ? "embed.weight" : "head.weight");
  std::vector<double> logits;
  for (const std::vector<double>& row :
       Reference::multiply(reference.hidden_states(tokens), head)) {
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

}  // namespace lowkey::test
