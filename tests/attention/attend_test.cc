#include "attention/attend.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <vector>

#include "attention/harness.h"
#include "core/error.h"
#include "core/rng.h"
#include "quant/affine.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

using test::Case;
using test::Harness;
using test::isas;
using test::largest_difference;
using test::random_floats;

// Scores reach |s| = 60 here; an f32 dot product of 256 terms is off by about 256 * 2^-24 * 60 <
// 1e-3 at the very worst, typically 1e-5, and a probability by that much relatively; |v| <= 1.
constexpr double kBound = 2e-4;

class AttendCase : public testing::TestWithParam<Case> {};

TEST_P(AttendCase, EveryPathAgreesWithTheReference) {
  const Case& c = GetParam();
  ThreadPool pool(3);
  AttendWorkspace workspace;
  Harness harness(c);
  // Prefill pieces of awkward sizes and decode steps, at first over little, then over several runs
  // of pages.
  for (int64_t n : {1, 1, 5, 33, 1, 2, 64, 1, 450, 1, 3, 31, 1}) {
    harness.step(n, [&](const LayerView& view, const std::vector<float>& q) {
      if (n > 100) return;  // only there to make what follows long
      std::vector<float> expected(q.size());
      const AttendItem reference{&view, q.data(), expected.data()};
      attend_ref(harness.args(reference));
      for (Isa isa : isas()) {
        std::vector<float> out(q.size(), NAN);
        const AttendItem item{&view, q.data(), out.data()};
        attend(harness.args(item), pool, workspace, isa);
        ASSERT_LE(largest_difference(out, expected), kBound)
            << isa_name(isa) << ", " << n << " tokens after " << view.position;
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, AttendCase,
    testing::Values(
        Case{"16", 64, 3, 3}, Case{"32", 8, 4, 2}, Case{"16", 8, 2, 1}, Case{"8", 64, 3, 3},
        Case{"8/4", 64, 1, 3}, Case{"4", 64, 2, 8}, Case{"3", 64, 1, 4}, Case{"2", 64, 1, 1},
        Case{"kivi-2:r32", 64, 3, 3}, Case{"kivi-4", 64, 1, 3}, Case{"kivi-2", 128, 1, 4},
        Case{"kivi-3:g64:r64", 128, 1, 2}, Case{"kivi-3:r96", 96, 1, 3}, Case{"4:r20", 80, 1, 2},
        Case{"3:r7", 80, 1, 2}, Case{"2:r40:block", 16, 2, 2}, Case{"kivi-2:r32+i4", 64, 1, 3},
        Case{"8:r16+i70", 64, 1, 3}, Case{"kivi-8/2:g128", 256, 1, 2}, Case{"16/2:r32", 64, 1, 3},
        Case{"4/16", 64, 1, 2}, Case{"32/4", 64, 1, 2}, Case{"4:g32", 128, 1, 12},
        Case{"kivi-2:r32:block+i1", 64, 1, 71}, Case{"16", 64, 3, 3, 100}, Case{"32", 8, 2, 2, 1},
        Case{"4", 64, 2, 1, 33}, Case{"kivi-2:r32", 64, 1, 3, 64}, Case{"kivi-4:r64", 64, 1, 2, 20},
        Case{"8:r16+i70", 64, 1, 3, 90}, Case{"kivi-2:r32+i4", 64, 1, 3, 300},
        Case{"3:r40:block+i130", 80, 1, 2, 129}, Case{"16", 64, 1, 3, 0, 5.0f},
        Case{"16", 64, 2, 8, 0, 0.0f, true}, Case{"kivi-2:r32+i3", 64, 1, 71, 150, 20.0f, true},
        Case{"3:r7", 80, 2, 1, 128, 2.0f, true}),
    [](const auto& p) { return "case" + std::to_string(p.index); });

// The reference itself against the definition: its own dequantization and mask, from the raw
// tokens, no cache involved.
TEST(AttendRef, IsSoftmaxOverPackedHistoryAndExactWindow) {
  const Case c{"kivi-2:r32+i2", 32, 1, 1};
  const int64_t R = 32, prefix = 2, dim = 32, total = 150;
  Harness harness(c);
  std::vector<float> outputs, queries;
  for (int64_t n : {40, 1, 1, 100, 8}) {
    harness.step(n, [&](const LayerView& view, const std::vector<float>& q) {
      std::vector<float> out(q.size());
      const AttendItem item{&view, q.data(), out.data()};
      attend_ref(harness.args(item));
      outputs.insert(outputs.end(), out.begin(), out.end());
      queries.insert(queries.end(), q.begin(), q.end());
    });
  }
  ASSERT_EQ(harness.length(), total);
  auto at = [&](const std::vector<float>& x, int64_t t, int64_t ch) {
    return half_to_float(float_to_half(x[static_cast<size_t>(t * dim + ch)]));
  };
  auto quantized = [&](const std::vector<float>& x, int64_t t, int64_t ch, bool key) {
    const int64_t block = (t - prefix) / 32 * 32 + prefix;
    std::vector<float> group;
    for (int64_t i = 0; i < 32; ++i) group.push_back(key ? at(x, block + i, ch) : at(x, t, i));
    const AffineParams params = affine_params(group.data(), 32, 1, 2);
    return affine_decode(affine_code(at(x, t, ch), params, 2), params);
  };
  for (int64_t t = 0; t < total; ++t) {
    const int64_t before = std::max<int64_t>(0, t - prefix);
    const int64_t k_stored = prefix + before / R * R;
    const int64_t v_stored = prefix + std::max<int64_t>(0, before - R);
    std::vector<double> weight;
    double sum = 0;
    for (int64_t j = 0; j <= t; ++j) {
      double dot = 0;
      for (int64_t ch = 0; ch < dim; ++ch) {
        const bool packed = j >= prefix && j < k_stored;
        dot += static_cast<double>(queries[static_cast<size_t>(t * dim + ch)]) *
               (packed ? quantized(harness.keys(), j, ch, true) : at(harness.keys(), j, ch));
      }
      weight.push_back(std::exp(dot / std::sqrt(32.0)));
      sum += weight.back();
    }
    for (int64_t ch = 0; ch < dim; ++ch) {
      double mixed = 0;
      for (int64_t j = 0; j <= t; ++j) {
        const bool packed = j >= prefix && j < v_stored;
        mixed += weight[static_cast<size_t>(j)] *
                 (packed ? quantized(harness.values(), j, ch, false) : at(harness.values(), j, ch));
      }
      ASSERT_NEAR(outputs[static_cast<size_t>(t * dim + ch)], mixed / sum, 1e-5) << "token " << t;
    }
  }
}

// `prefill: cached`: one step over many tokens gives what decoding them one by one gives.
class Chunkings : public testing::TestWithParam<int32_t> {};

TEST_P(Chunkings, PrefillSeesWhatDecodeSees) {
  for (const char* recipe : {"kivi-2:r32", "2", "4:r9+i3", "3:r16:block", "16"}) {
    ThreadPool pool(2);
    AttendWorkspace workspace;
    std::vector<float> whole, pieces;
    const int64_t total = 200, width = 64;
    SplitMix64 rng(3);
    const std::vector<float> k = random_floats(rng, total * width, 4.0),
                             v = random_floats(rng, total * width, 2.0),
                             q = random_floats(rng, total * width * 3, 2.0);
    auto feed = [&](const std::vector<int64_t>& sizes, std::vector<float>& outputs) {
      KvCache cache(resolve_recipe(parse_recipe(recipe), {1, 1, 64, {GetParam()}}));
      KvSequence sequence = cache.new_sequence();
      AppendStage stage;
      int64_t t = 0;
      for (int64_t n : sizes) {
        const LayerView& view =
            sequence.append(0, k.data() + t * width, v.data() + t * width, n, stage);
        std::vector<float> out(static_cast<size_t>(n * width * 3));
        const AttendItem item{&view, q.data() + t * width * 3, out.data()};
        attend({{&item, 1}, 3, 0.125f}, pool, workspace);
        sequence.commit(0, stage);
        outputs.insert(outputs.end(), out.begin(), out.end());
        t += n;
      }
    };
    feed({total}, whole);
    feed(std::vector<int64_t>(static_cast<size_t>(total), 1), pieces);
    EXPECT_LE(largest_difference(whole, pieces), kBound) << recipe;
    pieces.clear();
    feed({31, 1, 70, 2, 96}, pieces);
    EXPECT_LE(largest_difference(whole, pieces), kBound) << recipe;
  }
}

INSTANTIATE_TEST_SUITE_P(Windows, Chunkings, testing::Values(0, 1, 20, 64, 130));

TEST(Attend, ExactPrefillIgnoresQuantizationWithinTheStep) {
  KvRecipe parsed = parse_recipe("2");
  parsed.prefill = PrefillMode::kExact;
  const KvShape shape{1, 1, 64};
  SplitMix64 rng(9);
  const std::vector<float> k = random_floats(rng, 100 * 64, 4.0),
                           v = random_floats(rng, 100 * 64, 2.0),
                           q = random_floats(rng, 100 * 128, 2.0);
  auto run = [&](const ResolvedRecipe& recipe) {
    KvCache cache(recipe);
    KvSequence sequence = cache.new_sequence();
    AppendStage stage;
    const LayerView& view = sequence.append(0, k.data(), v.data(), 100, stage);
    std::vector<float> out(100 * 128);
    const AttendItem item{&view, q.data(), out.data()};
    attend_ref({{&item, 1}, 2, 0.125f});
    ThreadPool pool(1);
    AttendWorkspace workspace;
    std::vector<float> fast(out.size());
    const AttendItem fast_item{&view, q.data(), fast.data()};
    attend({{&fast_item, 1}, 2, 0.125f}, pool, workspace);
    EXPECT_LE(largest_difference(fast, out), kBound);
    return out;
  };
  const std::vector<float> exact = run(resolve_recipe(parsed, shape));
  const std::vector<float> sixteen = run(resolve_recipe(parse_recipe("16"), shape));
  const std::vector<float> cached = run(resolve_recipe(parse_recipe("2"), shape));
  EXPECT_LE(largest_difference(exact, sixteen), 1e-6);
  EXPECT_GT(largest_difference(cached, sixteen), 0.01);
}

class Threads : public testing::TestWithParam<int32_t> {};

TEST_P(Threads, DoNotShowInTheResult) {
  std::optional<std::vector<float>> first;
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    AttendWorkspace workspace;
    Harness harness({"kivi-4:r32", 64, 3, 3, GetParam(), GetParam() > 0 ? 30.0f : 0.0f, true});
    std::vector<float> all;
    for (int64_t n : {1500, 1, 4, 1, 60, 3}) {
      harness.step(n, [&](const LayerView& view, const std::vector<float>& q) {
        std::vector<float> out(q.size());
        const AttendItem item{&view, q.data(), out.data()};
        attend(harness.args(item), pool, workspace);
        all.insert(all.end(), out.begin(), out.end());
      });
    }
    if (!first) first = all;
    EXPECT_EQ(all, *first) << threads << " threads";  // bit for bit
  }
}

INSTANTIATE_TEST_SUITE_P(Windows, Threads, testing::Values(0, 700));

TEST(Attend, ABatchIsItsSequencesAlone) {
  const int64_t lengths[] = {700, 3, 90};
  ThreadPool pool(2);
  AttendWorkspace workspace;
  KvCache cache(resolve_recipe(parse_recipe("kivi-2:r32"), {1, 2, 64}));
  std::vector<KvSequence> sequences;
  SplitMix64 rng(4);
  AppendStage stages[3];
  std::vector<AttendItem> items(3);
  std::vector<std::vector<float>> q(3), together(3), alone(3);
  for (size_t i = 0; i < 3; ++i) {
    sequences.push_back(cache.new_sequence());
    const std::vector<float> k = random_floats(rng, lengths[i] * 128, 4.0),
                             v = random_floats(rng, lengths[i] * 128, 2.0);
    sequences[i].append(0, k.data(), v.data(), lengths[i], stages[i]);
    sequences[i].commit(0, stages[i]);
  }
  for (size_t i = 0; i < 3; ++i) {
    const std::vector<float> k = random_floats(rng, 2 * 128, 4.0),
                             v = random_floats(rng, 2 * 128, 2.0);
    const LayerView& view = sequences[i].append(0, k.data(), v.data(), 2, stages[i]);
    q[i] = random_floats(rng, 2 * 256, 2.0);
    together[i].resize(2 * 256);
    alone[i].resize(2 * 256);
    items[i] = {&view, q[i].data(), alone[i].data()};
    attend({{&items[i], 1}, 4, 0.125f}, pool, workspace);
    items[i].out = together[i].data();
  }
  attend({items, 4, 0.125f}, pool, workspace);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(together[i], alone[i]) << i;
}

// Scores that would overflow exp, rows that see one token only, huge values: finite and right.
TEST(Attend, ExtremeScoresStayFinite) {
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
  for (Isa isa : isas()) {
    const AttendItem item{&view, q.data(), out.data()};
    attend({{&item, 1}, 1, 0.25f}, pool, workspace, isa);
    EXPECT_LE(largest_difference(out, expected), 6e4 * 1e-5) << isa_name(isa);
  }
}

}  // namespace
}  // namespace lowkey
