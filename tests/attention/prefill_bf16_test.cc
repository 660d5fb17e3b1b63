// Prefill with products in bf16 against the definition on rounded numbers.
#include "attention/prefill_bf16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "attention/attend.h"
#include "attention/harness.h"
#include "quant/pack.h"

namespace lowkey {
namespace {

using test::Case;
using test::Harness;
using test::largest_difference;
using test::random_floats;

double rounded(float x) {
  return bfloat16_to_float(float_to_bfloat16(x));
}

// Element `channel` of the token at absolute `position`, as a query sees it that has `stored`
// tokens in packed form.
float element(const LayerView& view, const HeadView& head, const SideView& side, int64_t stored,
              int64_t position, int32_t channel) {
  const auto exact = [&](const ExactRows& rows, int64_t index) {
    return half_to_float(reinterpret_cast<const Half*>(
        rows.rows)[static_cast<size_t>((index - rows.first) * view.head_dim + channel)]);
  };
  if (position < view.intact_prefix) return exact(side.prefix, position);
  const int64_t token = position - view.intact_prefix;
  if (token < stored) {
    return read_element(*side.layout, head.page(token / kPageTokens) + side.page_offset,
                        static_cast<int32_t>(token % kPageTokens), channel);
  }
  for (const ExactRows& rows : side.exact) {
    if (token >= rows.first && token < rows.first + rows.count) return exact(rows, token);
  }
  ADD_FAILURE() << "token " << token << " is nowhere";
  return NAN;
}

// Every fifth query is checked: it meets every residue of tiles, strips and groups of heads.
constexpr int64_t kQueriesApart = 5;

struct Expected {
  std::vector<double> out;
  std::vector<double> bound;
};

// Softmax in double over bf16's queries, keys and values: the same numbers as the kernels multiply.
// What is left is rounding a probability to bf16 (2^-8 of it), the polynomial for exp (7.5e-5, in
// numerator and denominator), and f32 sums: scores of |s| < 100 are off by 256 * 2^-24 * 100 < 2e-3
// at the very worst. Scores are in units of log2.
Expected expected_in_bf16(const LayerView& view, const AttendArgs& args,
                          const std::vector<float>& q) {
  const int32_t num_qo_heads = args.num_qo_heads;
  const float factor = args.scale * std::numbers::log2e_v<float>;
  const double cap = args.softcap * std::numbers::log2e;
  const auto group = num_qo_heads / static_cast<int32_t>(view.heads.size());
  Expected result{std::vector<double>(q.size()), std::vector<double>(q.size())};
  for (int64_t i = 0; i < view.num_tokens; i += kQueriesApart) {
    const int64_t position = view.position + i;
    for (int32_t h = 0; h < num_qo_heads; ++h) {
      const HeadView& head = view.heads[static_cast<size_t>(h / group)];
      const int64_t k_stored = view.stored_for(head.k, position);
      const int64_t v_stored = view.stored_for(head.v, position);
      const auto row = static_cast<size_t>((i * num_qo_heads + h) * view.head_dim);
      std::vector<double> p;
      double top = -INFINITY, sum = 0;
      const int64_t seen = view.window == 0 ? 0 : std::max<int64_t>(0, position + 1 - view.window);
      for (int64_t t = seen; t <= position; ++t) {
        double score = 0;
        for (int32_t c = 0; c < view.head_dim; ++c) {
          score += rounded(q[row + static_cast<size_t>(c)] * factor) *
                   rounded(element(view, head, head.k, k_stored, t, c));
        }
        if (cap != 0) score = cap * std::tanh(score / cap);
        if (!args.alibi_slopes.empty()) {
          score += args.alibi_slopes[static_cast<size_t>(h)] * std::numbers::log2e *
                   static_cast<double>(t - position);
        }
        p.push_back(score);
        top = std::max(top, score);
      }
      for (double& score : p) sum += score = std::exp2(score - top);
      for (int32_t c = 0; c < view.head_dim; ++c) {
        double mixed = 0, magnitude = 0;
        for (int64_t t = seen; t <= position; ++t) {
          const double value = rounded(element(view, head, head.v, v_stored, t, c));
          mixed += p[static_cast<size_t>(t - seen)] * value;
          magnitude += p[static_cast<size_t>(t - seen)] * std::abs(value);
        }
        result.out[row + static_cast<size_t>(c)] = mixed / sum;
        result.bound[row + static_cast<size_t>(c)] = (0x1p-8 + 2e-3) * magnitude / sum + 1e-7;
      }
    }
  }
  return result;
}

class PrefillBf16 : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!prefill_bf16_kernels(active_isa())) GTEST_SKIP() << "no AVX512_BF16 here";
  }
};

TEST_P(PrefillBf16, EqualsTheDefinitionOnRoundedNumbers) {
  const Case& c = GetParam();
  ThreadPool pool(3);
  AttendWorkspace workspace;
  Harness harness(c);
  // Pieces around every boundary: of tiles, pages, strips and blocks; early, and after a history.
  for (int64_t n : {33, 40, 1, 150, 61, 300, 70}) {
    harness.step(n, [&](const LayerView& view, const std::vector<float>& q) {
      if (n == 1 || n == 300) return;  // only there to make what follows long
      std::vector<float> out(q.size(), NAN);
      const AttendItem item{&view, q.data(), out.data()};
      AttendArgs args = harness.args(item);
      args.precision = AttendPrecision::kBF16;
      attend(args, pool, workspace);
      const Expected expected = expected_in_bf16(view, args, q);
      for (size_t i = 0; i < q.size(); ++i) {
        if (expected.bound[i] == 0) continue;  // not computed
        ASSERT_NEAR(out[i], expected.out[i], expected.bound[i])
            << "element " << i << " of " << n << " tokens after " << view.position;
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, PrefillBf16,
    testing::Values(
        Case{"16", 64, 1, 3}, Case{"16", 8, 2, 1}, Case{"8", 64, 1, 3}, Case{"8/4", 64, 1, 2},
        Case{"4", 64, 2, 2}, Case{"3", 64, 1, 4}, Case{"2", 16, 3, 1}, Case{"kivi-2:r32", 64, 1, 3},
        Case{"kivi-4", 64, 1, 3}, Case{"kivi-2", 128, 1, 1}, Case{"kivi-3:g64:r64", 128, 1, 1},
        Case{"kivi-3:r96", 96, 1, 1}, Case{"4:r20", 80, 1, 2}, Case{"3:r7", 48, 1, 5},
        Case{"2:r40:block", 16, 2, 2}, Case{"kivi-2:r32+i4", 64, 1, 3}, Case{"8:r16+i70", 64, 1, 3},
        Case{"kivi-8/2:g128", 256, 1, 1}, Case{"16/2:r32", 64, 1, 3}, Case{"4/16", 64, 1, 2},
        Case{"kivi-2:r32:block+i1", 32, 1, 71}, Case{"16", 64, 1, 3, 100}, Case{"4", 64, 2, 2, 1},
        Case{"kivi-2:r32", 64, 1, 3, 64}, Case{"kivi-4:r64", 64, 1, 2, 20},
        Case{"8:r16+i70", 64, 1, 3, 90}, Case{"3:r40:block+i130", 80, 1, 2, 129},
        Case{"16", 64, 1, 3, 0, 5.0f}, Case{"4", 64, 2, 2, 0, 0.0f, true},
        Case{"kivi-2:r32+i3", 64, 1, 5, 150, 20.0f, true}),
    [](const auto& p) { return "case" + std::to_string(p.index); });

// Sides of 32 bits ask for exactness, and get it.
TEST(PrefillPrecision, ThirtyTwoBitsStayInF32) {
  for (const char* recipe : {"32", "32/4", "4/32"}) {
    Harness harness({recipe, 32, 1, 2});
    ThreadPool pool(2);
    AttendWorkspace workspace;
    harness.step(100, [&](const LayerView& view, const std::vector<float>& q) {
      std::vector<float> asked(q.size()), plain(q.size());
      const AttendItem a{&view, q.data(), asked.data()}, b{&view, q.data(), plain.data()};
      AttendArgs args = harness.args(a);
      args.precision = AttendPrecision::kBF16;
      attend(args, pool, workspace);
      attend(harness.args(b), pool, workspace);
      EXPECT_EQ(asked, plain) << recipe;
    });
  }
}

// A row has the bits it would have among other rows, on any number of threads.
TEST(PrefillPrecision, ThreadsDoNotShowInBf16) {
  std::vector<float> first;
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    AttendWorkspace workspace;
    Harness harness({"kivi-4:r32", 64, 3, 3, 300, 30.0f, true});
    harness.step(700, [&](const LayerView& view, const std::vector<float>& q) {
      std::vector<float> out(q.size());
      const AttendItem item{&view, q.data(), out.data()};
      AttendArgs args = harness.args(item);
      args.precision = AttendPrecision::kBF16;
      attend(args, pool, workspace);
      if (first.empty()) first = out;
      EXPECT_EQ(out, first) << threads << " threads";
    });
  }
}

TEST(PrefillPrecision, ExactPrefillIgnoresQuantizationWithinTheStepInBf16) {
  KvRecipe parsed = parse_recipe("2");
  parsed.prefill = PrefillMode::kExact;
  const KvShape shape{1, 1, 64};
  SplitMix64 rng(9);
  const std::vector<float> k = random_floats(rng, 100 * 64, 4.0),
                           v = random_floats(rng, 100 * 64, 2.0),
                           q = random_floats(rng, 100 * 128, 2.0);
  const auto run = [&](const ResolvedRecipe& recipe) {
    KvCache cache(recipe);
    KvSequence sequence = cache.new_sequence();
    AppendStage stage;
    const LayerView& view = sequence.append(0, k.data(), v.data(), 100, stage);
    std::vector<float> out(100 * 128);
    ThreadPool pool(1);
    AttendWorkspace workspace;
    const AttendItem item{&view, q.data(), out.data()};
    attend({.items = {&item, 1},
            .num_qo_heads = 2,
            .scale = 0.125f,
            .precision = AttendPrecision::kBF16},
           pool, workspace);
    return out;
  };
  const std::vector<float> exact = run(resolve_recipe(parsed, shape));
  const std::vector<float> sixteen = run(resolve_recipe(parse_recipe("16"), shape));
  EXPECT_EQ(largest_difference(exact, sixteen), 0);
  EXPECT_GT(largest_difference(run(resolve_recipe(parse_recipe("2"), shape)), sixteen), 0.01);
}

// Scores that would overflow exp, rows that see one token only, huge values: finite and right.
TEST(PrefillPrecision, ExtremeScoresStayFiniteInBf16) {
  KvCache cache(resolve_recipe(parse_recipe("16"), {1, 1, 16}));
  KvSequence sequence = cache.new_sequence();
  AppendStage stage;
  ThreadPool pool(1);
  AttendWorkspace workspace;
  std::vector<float> k(40 * 16), v(40 * 16), q(40 * 16), out(q.size()), expected(q.size());
  for (size_t i = 0; i < k.size(); ++i) {
    k[i] = (i / 16 % 3 == 0 ? 3e4f : -3e4f);
    v[i] = static_cast<float>(i / 16) * 1500.0f;
    q[i] = i / 16 % 2 == 0 ? 100.0f : -100.0f;
  }
  const LayerView& view = sequence.append(0, k.data(), v.data(), 40, stage);
  const AttendItem reference{&view, q.data(), expected.data()};
  attend_ref({{&reference, 1}, 1, 0.25f});
  const AttendItem item{&view, q.data(), out.data()};
  attend(
      {.items = {&item, 1}, .num_qo_heads = 1, .scale = 0.25f, .precision = AttendPrecision::kBF16},
      pool, workspace);
  // Rounding values and (equal) probabilities.
  EXPECT_LE(largest_difference(out, expected), 6e4 * 2 * 0x1p-8);
}

}  // namespace
}  // namespace lowkey
