// IntactKV's theorem (arXiv 2403.01241): exact keys and values of pivot tokens lower the upper
// bound of the attention output's error. The bound in the form that is checked here, for one head
// and one query:
//
//   s_j = scale q.k_j, p = softmax(s), o = sum p_j v_j; quantized k_j + e_j, v_j + w_j, thus
//   s_j + d_j with |d_j| <= D_j = scale |q| |e_j| (Cauchy-Schwarz), and
//   p'_j = p_j exp(d_j) / Z with Z = sum p_i exp(d_i) >= L = sum p_i exp(-D_i).
//
//   o' - o = sum p'_j w_j + sum (p'_j - p_j) v_j
//   |p'_j - p_j| = p_j |exp(d_j) - Z| / Z <= p_j (|exp(d_j) - 1| + |Z - 1|) / L
//   and |exp(d) - 1| <= exp(D) - 1, |Z - 1| <= E = sum p_i (exp(D_i) - 1), so
//
//   |o' - o| <= (sum p_j exp(D_j) |w_j| + 2 E max |v_j|) / L.
//
// Every part grows with each |e_j| and |w_j|, by the attention p_j that the token gets. Tokens with
// zero error add nothing: so exact pivots, which get most of it, lower the bound most.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/rng.h"

namespace lowkey {
namespace {

constexpr int kDim = 32;
constexpr int kTokens = 96;
using Rows = std::vector<std::vector<double>>;

double normal(SplitMix64& rng) {
  const double u = rng.uniform() + 1e-300;
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * M_PI * rng.uniform());
}

Rows random_rows(SplitMix64& rng, int count) {
  Rows rows(static_cast<size_t>(count), std::vector<double>(kDim));
  for (auto& row : rows) {
    for (double& x : row) x = normal(rng);
  }
  return rows;
}

// Asymmetric, one scale per token: the paper's quantizer of K and V. The first `intact` rows stay.
Rows quantized(const Rows& rows, int bits, size_t intact) {
  Rows result = rows;
  for (size_t t = intact; t < rows.size(); ++t) {
    const auto [low, high] = std::minmax_element(rows[t].begin(), rows[t].end());
    const double scale = (*high - *low) / ((1 << bits) - 1);
    for (double& x : result[t]) x = *low + scale * std::round((x - *low) / scale);
  }
  return result;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

struct Attention {
  std::vector<double> weights, output;
};

Attention attend(const std::vector<double>& q, const Rows& k, const Rows& v) {
  const double scale = 1 / std::sqrt(kDim);
  Attention result{std::vector<double>(k.size()), std::vector<double>(kDim, 0.0)};
  double most = -1e300, sum = 0;
  for (const auto& key : k) most = std::max(most, scale * dot(q, key));
  for (size_t j = 0; j < k.size(); ++j) {
    result.weights[j] = std::exp(scale * dot(q, k[j]) - most);
    sum += result.weights[j];
  }
  for (size_t j = 0; j < k.size(); ++j) {
    result.weights[j] /= sum;
    for (size_t c = 0; c < kDim; ++c) result.output[c] += result.weights[j] * v[j][c];
  }
  return result;
}

struct ErrorAndBound {
  double error = 0, bound = 0;
};

ErrorAndBound measure(const std::vector<double>& q, const Rows& k, const Rows& v, int bits,
                      size_t intact) {
  const Rows k2 = quantized(k, bits, intact), v2 = quantized(v, bits, intact);
  const Attention exact = attend(q, k, v);
  const double scale = 1 / std::sqrt(kDim);
  double values = 0, perturbed = 0, least = 0, largest = 0;
  for (size_t j = 0; j < k.size(); ++j) {
    const double d = scale * std::sqrt(dot(q, q)) * distance(k[j], k2[j]);
    values += exact.weights[j] * std::exp(d) * distance(v[j], v2[j]);
    perturbed += exact.weights[j] * std::expm1(d);
    least += exact.weights[j] * std::exp(-d);
    largest = std::max(largest, std::sqrt(dot(v[j], v[j])));
  }
  return {distance(attend(q, k2, v2).output, exact.output),
          (values + 2 * perturbed * largest) / least};
}

// Queries that look at the first token, whose key has massive channels and whose value is small:
// what attention sinks are like in real models.
void make_pivot(const Rows& queries, Rows& k, Rows& v) {
  for (size_t c = 0; c < kDim; ++c) {
    double mean = 0;
    for (const auto& q : queries) mean += q[c];
    k[0][c] += mean > 0 ? 1 : -1;
    v[0][c] *= 0.1;
  }
  k[0][0] += 40;
}

TEST(AttentionBound, HoldsOnRandomData) {
  SplitMix64 rng(1);
  for (int round = 0; round < 40; ++round) {
    const Rows k = random_rows(rng, kTokens), v = random_rows(rng, kTokens);
    const Rows queries = random_rows(rng, 4);
    for (const auto& q : queries) {
      for (const int bits : {2, 3, 4, 8}) {
        const ErrorAndBound none = measure(q, k, v, bits, 0);
        EXPECT_LE(none.error, none.bound);
        EXPECT_GT(none.error, 0);
        double before = none.bound;
        for (const size_t intact : {1u, 4u, 24u}) {
          const ErrorAndBound some = measure(q, k, v, bits, intact);
          EXPECT_LE(some.error, some.bound);
          EXPECT_LT(some.bound, before);
          before = some.bound;
        }
        EXPECT_EQ(measure(q, k, v, bits, kTokens).error, 0);
        EXPECT_EQ(measure(q, k, v, bits, kTokens).bound, 0);
      }
    }
  }
}

TEST(AttentionBound, AnExactPivotLowersErrorAndBound) {
  SplitMix64 rng(2);
  for (int round = 0; round < 20; ++round) {
    Rows queries = random_rows(rng, 8);
    for (auto& q : queries) {
      q[0] = 0.6;  // all look along the pivot's channel
      for (size_t c = 1; c < kDim; ++c) q[c] = 0.4 * q[c] + 0.2;
    }
    Rows k = random_rows(rng, kTokens), v = random_rows(rng, kTokens);
    make_pivot(queries, k, v);
    for (const int bits : {2, 3, 4}) {
      double error = 0, error_exact = 0, error_other = 0;
      for (const auto& q : queries) {
        ASSERT_GT(attend(q, k, v).weights[0], 0.2);
        const ErrorAndBound none = measure(q, k, v, bits, 0), pivot = measure(q, k, v, bits, 1);
        EXPECT_LE(none.error, none.bound);
        EXPECT_LE(pivot.error, pivot.bound);
        EXPECT_LT(pivot.bound, 0.5 * none.bound) << bits;
        error += none.error;
        error_exact += pivot.error;
        // Any other token's exactness is worth much less.
        Rows k_swapped = k, v_swapped = v;
        std::swap(k_swapped[0], k_swapped[50]);
        std::swap(v_swapped[0], v_swapped[50]);
        error_other += measure(q, k_swapped, v_swapped, bits, 1).error;
      }
      EXPECT_LT(error_exact, 0.8 * error) << bits;
      EXPECT_LT(error_exact, error_other) << bits;
    }
  }
}

}  // namespace
}  // namespace lowkey
