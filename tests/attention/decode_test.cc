// Decode kernels against the specification, over random recipes, shapes and lengths.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/attend.h"
#include "attention/decode_kernels.h"
#include "attention/harness.h"
#include "core/rng.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

template <typename T>
T one_of(SplitMix64& rng, const std::vector<T>& choices) {
  return choices[rng.below(choices.size())];
}

struct RandomCase {
  KvRecipe recipe;
  KvShape shape;
  int32_t group = 1;
  int64_t length = 0;  // tokens stored before the step that is looked at
  int64_t queries = 1;
  float softcap = 0.0f;
  std::vector<float> slopes;
  std::string name;
};

SideRecipe random_side(SplitMix64& rng, int32_t head_dim, int64_t residual) {
  SideRecipe side;
  side.bits = one_of<int32_t>(rng, {2, 3, 4, 8, 2, 3, 4, 8, 16, 32});
  if (!side.packed()) return side;
  const int32_t channel_groups[] = {32, 64, 128};
  const int32_t per_channel = channel_groups[rng.below(3)];
  if (rng.below(2) == 0 && residual > 0 && residual % per_channel == 0) {
    side.axis = QuantAxis::kPerChannel;
    side.group_size = per_channel;
    return side;
  }
  std::vector<int32_t> groups;
  for (int32_t g = 16; g <= head_dim; g += 16) {
    if (head_dim % g == 0) groups.push_back(g);
  }
  side.group_size = one_of(rng, groups);
  return side;
}

RandomCase random_case(SplitMix64& rng) {
  RandomCase c;
  c.shape = {1, one_of<int32_t>(rng, {1, 2, 3}),
             one_of<int32_t>(rng, {16, 32, 48, 64, 64, 80, 96, 112, 128, 128, 160, 256})};
  LayerRule rule;
  rule.rest = true;
  rule.layer.residual_length = one_of<int32_t>(rng, {0, 1, 7, 32, 64, 96, 128, 128});
  const bool block = rule.layer.residual_length > 0 && rng.below(2) == 0;
  rule.layer.window = block ? WindowRule::kBlock : WindowRule::kKivi;
  rule.layer.k = random_side(rng, c.shape.head_dim, rule.layer.residual_length);
  rule.layer.v = random_side(rng, c.shape.head_dim, rule.layer.residual_length);
  c.recipe.rules = {rule};
  c.recipe.intact_prefix = one_of<int32_t>(rng, {0, 0, 0, 1, 5, 130});
  c.group = one_of<int32_t>(rng, {1, 1, 2, 3, 4, 5, 7, 8, 9, 16});
  // Around what changes with length: tiles, pages, windows, runs.
  const int64_t edge = one_of<int64_t>(rng, {0, 16, 32, 64, 96, 128, 160, 256, 384, 1024});
  c.length =
      std::max<int64_t>(0, edge + rule.layer.residual_length * static_cast<int64_t>(rng.below(2)) +
                               c.recipe.intact_prefix * static_cast<int64_t>(rng.below(2)) +
                               static_cast<int64_t>(rng.below(5)) - 2);
  c.queries = one_of<int64_t>(rng, {1, 1, 1, 2, 4});
  c.shape.windows = {one_of<int32_t>(rng, {0, 0, 0, 1, 2, 31, 96, 128, 129, 300, 512})};
  c.softcap = one_of<float>(rng, {0.0f, 0.0f, 1.0f, 30.0f});
  if (rng.below(4) == 0) c.slopes = test::alibi_slopes(c.shape.num_kv_heads * c.group);
  c.name = fmt::format("{}, head_dim {}, {} KV heads x {}, {} tokens + {}, window {}, cap {}, {}",
                       recipe_to_string(c.recipe), c.shape.head_dim, c.shape.num_kv_heads, c.group,
                       c.length, c.queries, c.shape.windows[0], c.softcap,
                       c.slopes.empty() ? "no slopes" : "slopes");
  return c;
}

// Tokens with what breaks kernels: outlier channels, outlier tokens, constant groups, tiny groups.
std::vector<float> random_tokens(SplitMix64& rng, int64_t tokens, int64_t width, double spread) {
  std::vector<float> x(static_cast<size_t>(tokens * width));
  const auto outlier_channel = static_cast<int64_t>(rng.below(static_cast<uint64_t>(width)));
  const bool constant_tokens = rng.below(4) == 0;
  const bool tiny = rng.below(8) == 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const bool constant = constant_tokens && t % 5 == 0;
    const double size = t % 37 == 11 ? 4.0 : tiny && t / 64 % 2 == 1 ? 1e-4 : 1.0;
    for (int64_t c = 0; c < width; ++c) {
      double value = (rng.uniform() - 0.5) * spread * size;
      if (c == outlier_channel) value *= 8;
      if (constant) value = 0.25;
      x[static_cast<size_t>(t * width + c)] = static_cast<float>(value);
    }
  }
  return x;
}

double largest(const std::vector<float>& x) {
  double result = 0;
  for (float value : x) result = std::max(result, std::abs(static_cast<double>(value)));
  return result;
}

// What the arithmetic allows. A folded number is wrong by at most 2 of 2^15 parts of twice the
// largest (decode_kernels.h): half for rounding the query, one for cutting the scale, half for the
// product; one pass adds half of 2^7 parts. A score sums head_dim such errors times codes, which
// times the scale are at most the range of what is stored; errors are independent, so six standard
// deviations (of a uniform error: its bound / sqrt 3) are never seen. Probabilities follow scores;
// values add the same kind of error for each token, relative to the page's largest probability.
double allowed(const RandomCase& c, DecodeDots dots, double q, double k, double v) {
  const double part = 2 * (dots == DecodeDots::kTwoPass ? 2.0 / 32768 : 2.0 / 32768 + 0.5 / 127);
  const double sigmas = 6 / std::sqrt(3.0);
  const double score = sigmas * std::sqrt(c.shape.head_dim) * part * q * 2 * k;
  const double tokens = std::min<double>(static_cast<double>(c.length + 4), kPageTokens);
  return std::expm1(std::min(score, 5.0)) * 2 * v + sigmas * std::sqrt(tokens) * part * 2 * v +
         2e-5 * v;
}

struct Tally {
  int packed = 0, direct = 0;  // sides
  double squared_error = 0, squared_norm = 0;
};

void compare_with_reference(const RandomCase& c, SplitMix64& rng, ThreadPool& pool,
                            AttendWorkspace& workspace, Tally& tally) {
  SCOPED_TRACE(c.name);
  const ResolvedRecipe recipe = resolve_recipe(c.recipe, c.shape);
  KvCache cache(recipe);
  KvSequence sequence = cache.new_sequence();
  AppendStage stage;
  const int64_t width = int64_t{c.shape.num_kv_heads} * c.shape.head_dim;
  const int64_t total = c.length + c.queries;
  const std::vector<float> k = random_tokens(rng, total, width, 2.0),
                           v = random_tokens(rng, total, width, 2.0);
  std::vector<float> q(static_cast<size_t>(c.queries * width * c.group));
  for (float& value : q) value = static_cast<float>((rng.uniform() - 0.5) * 2);
  if (c.length > 0) {
    sequence.append(0, k.data(), v.data(), c.length, stage);
    sequence.commit(0, stage);
  }
  const LayerView& view = sequence.append(0, k.data() + c.length * width,
                                          v.data() + c.length * width, c.queries, stage);
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.shape.head_dim));
  const int32_t num_qo_heads = c.shape.num_kv_heads * c.group;
  std::vector<float> expected(q.size());
  const AttendItem reference{&view, q.data(), expected.data()};
  attend_ref({{&reference, 1}, num_qo_heads, scale, c.softcap, c.slopes});
  for (Isa isa : kIsas) {
    if (!isa_available(isa) || decode_kernels(isa) == nullptr) continue;
    for (DecodeDots dots : {DecodeDots::kTwoPass, DecodeDots::kOnePass}) {
      std::vector<float> out(q.size(), NAN);
      const AttendItem item{&view, q.data(), out.data()};
      AttendArgs args{{&item, 1}, num_qo_heads, scale, c.softcap, c.slopes};
      args.decode_dots = dots;
      attend(args, pool, workspace, isa);
      const double bound = allowed(c, dots, largest(q) * scale, largest(k), largest(v));
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_NEAR(out[i], expected[i], bound) << isa_name(isa) << ", element " << i;
        if (dots == DecodeDots::kTwoPass) {
          tally.squared_error += std::pow(static_cast<double>(out[i]) - expected[i], 2);
          tally.squared_norm += std::pow(static_cast<double>(expected[i]), 2);
        }
      }
    }
  }
  const DecodeKernels* kernels = decode_kernels(active_isa());
  for (const SideView* side : {&view.heads[0].k, &view.heads[0].v}) {
    tally.packed += side->layout->packed();
    tally.direct += kernels != nullptr && kernels->supports(*side->layout);
  }
}

TEST(Decode, EveryKernelAgreesWithTheReference) {
  SplitMix64 rng(2024);
  ThreadPool pool(2);
  AttendWorkspace workspace;
  Tally tally;
  for (int round = 0; round < 250; ++round) {
    compare_with_reference(random_case(rng), rng, pool, workspace, tally);
    if (HasFatalFailure()) return;
  }
  // The bound above is for the worst element; over all of them, two passes are exact to four
  // digits.
  EXPECT_LE(std::sqrt(tally.squared_error / tally.squared_norm), 3e-4);
  if (decode_kernels(active_isa()) != nullptr) {
    EXPECT_GE(tally.direct, tally.packed * 9 / 10) << "most sides are read from their codes";
  }
}

// Large heads, and many: a step is cut into tasks of some heads, with and without runs of pages,
// which do or do not begin where the prefix ends.
TEST(Decode, TasksOfSomeHeads) {
  SplitMix64 rng(7);
  ThreadPool pool(2);
  for (const char* recipe : {"16", "8", "kivi-4:r32", "16+i130", "kivi-2:r32+i300"}) {
    for (int64_t length : {100, 500, 650, 1400}) {
      RandomCase c;
      c.shape = {1, 12, 256, {length == 1400 ? 900 : 0}};
      c.recipe = parse_recipe(recipe);
      c.length = length;
      c.name = fmt::format("{}, {} tokens", recipe, length);
      AttendWorkspace workspace;
      Tally tally;
      compare_with_reference(c, rng, pool, workspace, tally);
      if (HasFatalFailure()) return;
    }
  }
}

// The prefix has pages too: a step's first query may see fewer of them than its last.
TEST(Decode, AStepAcrossPagesOfThePrefix) {
  SplitMix64 rng(8);
  ThreadPool pool(1);
  for (int64_t length : {124, 125, 126, 127, 128, 129, 254, 255, 256}) {
    RandomCase c;
    c.shape = {1, 1, 32};
    c.recipe = parse_recipe("16+i300");
    c.length = length;
    c.queries = 4;
    c.name = fmt::format("{} tokens", length);
    AttendWorkspace workspace;
    Tally tally;
    compare_with_reference(c, rng, pool, workspace, tally);
    if (HasFatalFailure()) return;
  }
}

TEST(Decode, KernelsKnowEveryUsualSide) {
  const DecodeKernels* kernels = decode_kernels(active_isa());
  if (kernels == nullptr) GTEST_SKIP() << isa_name(active_isa()) << " decodes through tiles";
  for (int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (int32_t bits : {2, 3, 4, 8}) {
      for (Side side : {Side::kKey, Side::kValue}) {
        for (int32_t group : {32, 64, 128}) {
          SideRecipe recipe;
          recipe.bits = bits;
          recipe.group_size = group;
          recipe.axis = QuantAxis::kPerChannel;
          EXPECT_TRUE(kernels->supports(SideLayout(side, recipe, head_dim)));
          recipe.axis = QuantAxis::kPerToken;
          if (head_dim % group == 0) {
            EXPECT_TRUE(kernels->supports(SideLayout(side, recipe, head_dim)));
          }
        }
        SideRecipe whole_head;
        whole_head.bits = bits;
        whole_head.group_size = head_dim;
        EXPECT_TRUE(kernels->supports(SideLayout(side, whole_head, head_dim)));
      }
    }
  }
}

}  // namespace
}  // namespace lowkey
