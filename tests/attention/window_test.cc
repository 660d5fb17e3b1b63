// Windows, soft caps and ALiBi: the specification against a dense computation that knows nothing of
// caches, and every path against the specification.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/attend.h"
#include "attention/harness.h"
#include "attention/score_rules.h"
#include "core/rng.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

using test::alibi_slopes;
using test::Case;
using test::Harness;
using test::isas;
using test::largest_difference;
using test::random_floats;

struct Dense {
  const std::vector<float>&k, &v, &q;  // of all tokens
  int32_t head_dim, num_kv_heads, num_qo_heads;
  double scale;
  int64_t window;
  double softcap;
  std::vector<float> slopes;

  // As masks are written: query t sees position j if t - window < j <= t.
  std::vector<float> answer(int64_t t) const {
    std::vector<float> out;
    for (int32_t h = 0; h < num_qo_heads; ++h) {
      const int32_t kv = h / (num_qo_heads / num_kv_heads);
      const auto at = [&](const std::vector<float>& x, int64_t token, int32_t heads, int32_t head,
                          int32_t c) -> double {
        return x[static_cast<size_t>((token * heads + head) * head_dim + c)];
      };
      std::vector<double> p;
      double sum = 0;
      for (int64_t j = 0; j <= t; ++j) {
        double s = 0;
        for (int32_t c = 0; c < head_dim; ++c) {
          s += at(q, t, num_qo_heads, h, c) * at(k, j, num_kv_heads, kv, c);
        }
        s *= scale;
        if (softcap > 0) s = softcap * std::tanh(s / softcap);
        if (!slopes.empty()) s += slopes[static_cast<size_t>(h)] * static_cast<double>(j - t);
        const bool seen = window == 0 || j > t - window;
        p.push_back(seen ? std::exp(s) : 0.0);
        sum += p.back();
      }
      for (int32_t c = 0; c < head_dim; ++c) {
        double mixed = 0;
        for (int64_t j = 0; j <= t; ++j) {
          mixed += p[static_cast<size_t>(j)] * at(v, j, num_kv_heads, kv, c);
        }
        out.push_back(static_cast<float>(mixed / sum));
      }
    }
    return out;
  }
};

// Unquantized pages of 32 bits: what the reference says is the dense softmax, and what the paths
// say, up to f32 arithmetic (scores of |s| < 10 over 16 channels).
TEST(Windows, TheReferenceIsTheDenseSoftmaxOverWhatIsSeen) {
  SplitMix64 rng(31);
  ThreadPool pool(2);
  AttendWorkspace workspace;
  for (int round = 0; round < 24; ++round) {
    const int32_t windows[] = {0, 1, 2, 31, 32, 100, 128, 129, 256, 5000};
    const auto window = windows[rng.below(std::size(windows))];
    const float softcap = rng.below(2) == 0 ? 0.0f : 1.5f;
    const bool alibi = rng.below(2) == 0;
    const char* recipes[] = {"32", "32+i1", "32+i40", "32+i200"};
    const Case c{recipes[rng.below(4)], 16, 2, 3, window, softcap, alibi};
    SCOPED_TRACE(fmt::format("{}, window {}, cap {}, ALiBi {}", c.recipe, window, softcap, alibi));
    Harness harness(c, rng.next());
    std::vector<float> queries;
    for (int left = 420; left > 0;) {
      const auto n =
          std::min<int64_t>(left, rng.below(3) == 0 ? 1 : 1 + static_cast<int64_t>(rng.below(150)));
      left -= static_cast<int>(n);
      harness.step(n, [&](const LayerView& view, const std::vector<float>& q) {
        queries.insert(queries.end(), q.begin(), q.end());
        std::vector<float> reference(q.size()), dense;
        const AttendItem item{&view, q.data(), reference.data()};
        const AttendArgs args = harness.args(item);
        attend_ref(args);
        const Dense all{harness.keys(),
                        harness.values(),
                        queries,
                        16,
                        2,
                        6,
                        args.scale,
                        window,
                        softcap,
                        alibi ? alibi_slopes(6) : std::vector<float>{}};
        for (int64_t i = 0; i < n; ++i) {
          const std::vector<float> row = all.answer(view.position + i);
          dense.insert(dense.end(), row.begin(), row.end());
        }
        ASSERT_LE(largest_difference(reference, dense), 1e-6) << n << " after " << view.position;
        for (Isa isa : isas()) {
          std::vector<float> out(q.size(), NAN);
          const AttendItem fast{&view, q.data(), out.data()};
          attend(harness.args(fast), pool, workspace, isa);
          ASSERT_LE(largest_difference(out, dense), 2e-5)
              << isa_name(isa) << ", " << n << " after " << view.position;
        }
      });
      if (HasFatalFailure()) return;
    }
  }
}

// Random windows, recipes and chunkings: every path agrees with the reference after any history.
TEST(Windows, EveryPathAgreesWithTheReferenceOverAnyHistory) {
  SplitMix64 rng(77);
  ThreadPool pool(2);
  AttendWorkspace workspace;
  const char* recipes[] = {
      "16",         "4",           "3:r7",          "kivi-2:r32",     "8:r40:block",
      "kivi-4:r64", "16/2:r20",    "4/16",          "kivi-3:r96:g32", "2:r200",
      "4+i5",       "kivi-2+i130", "2:r16:block+i3"};
  for (int round = 0; round < 40; ++round) {
    const auto window = static_cast<int32_t>(1 + rng.below(rng.below(2) == 0 ? 40 : 400));
    const Case c{recipes[rng.below(std::size(recipes))],
                 32,
                 static_cast<int32_t>(1 + rng.below(2)),
                 static_cast<int32_t>(1 + rng.below(4)),
                 window,
                 rng.below(3) == 0 ? 10.0f : 0.0f,
                 rng.below(3) == 0};
    SCOPED_TRACE(
        fmt::format("{}, window {}, cap {}, ALiBi {}", c.recipe, window, c.softcap, c.alibi));
    Harness harness(c, rng.next());
    for (int step = 0; step < 9; ++step) {
      const int64_t lengths[] = {1, 1, 2, 4, 5, 30, 97, 260};
      const int64_t n = lengths[rng.below(std::size(lengths))];
      const bool check = n < 50 || rng.below(4) == 0;
      harness.step(n, [&](const LayerView& view, const std::vector<float>& q) {
        if (!check) return;
        std::vector<float> expected(q.size());
        const AttendItem reference{&view, q.data(), expected.data()};
        attend_ref(harness.args(reference));
        for (Isa isa : isas()) {
          std::vector<float> out(q.size(), NAN);
          const AttendItem item{&view, q.data(), out.data()};
          attend(harness.args(item), pool, workspace, isa);
          // Mostly the fixed point of decode (decode_test.cc derives what it allows).
          ASSERT_LE(largest_difference(out, expected), 4e-4)
              << isa_name(isa) << ", " << n << " tokens after " << view.position;
        }
        // Rounded products: scores of |s| < 60 and values of |v| <= 1 to eight bits. Nothing but
        // gross mistakes shows here; prefill_bf16_test.cc has the definition on rounded numbers.
        std::vector<float> out(q.size(), NAN);
        const AttendItem item{&view, q.data(), out.data()};
        AttendArgs args = harness.args(item);
        args.precision = AttendPrecision::kBF16;
        attend(args, pool, workspace);
        ASSERT_LE(largest_difference(out, expected), 0.5);
      });
      if (HasFatalFailure()) return;
    }
  }
}

// What no query is ever to see: keys that would win every softmax, just behind the window.
TEST(Windows, WhatIsBehindTheWindowDoesNotShow) {
  for (const char* recipe : {"16", "32", "4", "kivi-2:r32", "8:r16+i70"}) {
    for (const int32_t window : {1, 40, 128, 200}) {
      ThreadPool pool(2);
      AttendWorkspace workspace;
      std::vector<std::vector<float>> answers;
      for (const float poison : {0.0f, 1000.0f}) {
        KvCache cache(resolve_recipe(parse_recipe(recipe), {1, 1, 32, {window}}));
        KvSequence sequence = cache.new_sequence();
        AppendStage stage;
        SplitMix64 rng(8);
        const int64_t history = 256 + 70;  // groups of 32 tokens do not mix poison and others
        std::vector<float> k = random_floats(rng, history * 32, 2.0),
                           v = random_floats(rng, history * 32, 2.0);
        const int64_t poisoned = (history + 1 - window) / 32 * 32;
        for (int64_t i = 0; i < poisoned * 32; ++i) {
          k[static_cast<size_t>(i)] += poison;
          v[static_cast<size_t>(i)] += poison;
        }
        sequence.append(0, k.data(), v.data(), history, stage);
        sequence.commit(0, stage);
        std::vector<float>& all = answers.emplace_back();
        for (const int64_t n : {3, 70}) {
          const std::vector<float> new_k = random_floats(rng, n * 32, 2.0),
                                   new_v = random_floats(rng, n * 32, 2.0);
          std::vector<float> q(static_cast<size_t>(n * 64), 1.0f), out(q.size());
          const LayerView& view = sequence.append(0, new_k.data(), new_v.data(), n, stage);
          const AttendItem item{&view, q.data(), out.data()};
          attend({{&item, 1}, 2, 0.2f}, pool, workspace);
          sequence.commit(0, stage);
          all.insert(all.end(), out.begin(), out.end());
        }
      }
      EXPECT_EQ(answers[0], answers[1]) << recipe << ", window " << window;
    }
  }
}

// A window that nothing has fallen out of yet changes no bit.
TEST(Windows, AWideOneIsNone) {
  ThreadPool pool(2);
  AttendWorkspace workspace;
  for (const auto precision : {AttendPrecision::kF32, AttendPrecision::kBF16}) {
    std::vector<float> answers[2];
    for (const int32_t window : {0, 100000}) {
      Harness harness({"kivi-4:r32+i3", 64, 2, 3, window});
      for (int64_t n : {200, 1, 3, 1500, 1, 2, 60}) {
        harness.step(n, [&](const LayerView& view, const std::vector<float>& q) {
          std::vector<float> out(q.size());
          const AttendItem item{&view, q.data(), out.data()};
          AttendArgs args = harness.args(item);
          args.precision = precision;
          attend(args, pool, workspace);
          answers[window > 0].insert(answers[window > 0].end(), out.begin(), out.end());
        });
      }
    }
    EXPECT_EQ(answers[0], answers[1]);
  }
}

// A step of a few unquantized tokens has the bits each would have alone, also where pages fall
// behind the window from one query to the next.
TEST(Windows, DecodingTogetherIsDecodingAlone) {
  for (const char* recipe : {"16", "32+i3", "16+i140"}) {
    ThreadPool pool(2);
    AttendWorkspace workspace;
    std::vector<float> answers[2];
    for (const bool together : {false, true}) {
      KvCache cache(resolve_recipe(parse_recipe(recipe), {1, 2, 32, {129}}));
      KvSequence sequence = cache.new_sequence();
      AppendStage stage;
      SplitMix64 rng(2);
      const int64_t total = 400;
      const std::vector<float> k = random_floats(rng, total * 64, 4.0),
                               v = random_floats(rng, total * 64, 2.0),
                               q = random_floats(rng, total * 128, 2.0);
      for (int64_t t = 0; t < total;) {
        const int64_t n = together ? std::min<int64_t>(1 + t % 4, total - t) : 1;
        const LayerView& view = sequence.append(0, k.data() + t * 64, v.data() + t * 64, n, stage);
        std::vector<float> out(static_cast<size_t>(n * 128));
        const AttendItem item{&view, q.data() + t * 128, out.data()};
        attend({{&item, 1}, 4, 0.2f}, pool, workspace);
        sequence.commit(0, stage);
        answers[together].insert(answers[together].end(), out.begin(), out.end());
        t += n;
      }
    }
    EXPECT_EQ(answers[0], answers[1]) << recipe;
  }
}

TEST(ScoreRules, TheCapIsTanh) {
  LayerView view;
  AttendArgs args{.items = {}, .num_qo_heads = 1, .softcap = 50.0f};
  const ScoreRules rules(args, view);
  std::vector<float> scores;
  for (double s = 1e-6; s < 1e5; s *= 1.01) {
    scores.push_back(static_cast<float>(s));
    scores.push_back(static_cast<float>(-s));
  }
  scores.insert(scores.end(), {0.0f, INFINITY, -INFINITY});
  std::vector<float> out = scores;
  rules.apply(out.data(), std::ssize(out), 0, std::ssize(out) - 1, 0);
  for (size_t i = 0; i < out.size(); ++i) {
    const double expected = 50.0 * std::tanh(static_cast<double>(scores[i]) / 50.0);
    ASSERT_NEAR(out[i], expected, 5e-7 * std::abs(expected)) << scores[i];
  }
}

}  // namespace
}  // namespace lowkey
