// A prefix made elsewhere is attended to as the same rows appended: with the same bits.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>

#include "attention/harness.h"

namespace lowkey {
namespace {

using test::random_floats;

struct PrefixCase {
  const char* recipe;
  int32_t head_dim;
  int32_t num_kv_heads;
  int32_t group;
  int64_t prefix;
  int32_t window = 0;
};

// [tokens, heads, head_dim] as an IntactPrefix holds one layer of it.
std::vector<Half> by_head(const std::vector<float>& rows, const PrefixCase& c) {
  std::vector<Half> halves;
  for (int64_t h = 0; h < c.num_kv_heads; ++h) {
    for (int64_t t = 0; t < c.prefix; ++t) {
      const float* row = rows.data() + (t * c.num_kv_heads + h) * c.head_dim;
      for (int32_t i = 0; i < c.head_dim; ++i) halves.push_back(float_to_half(row[i]));
    }
  }
  return halves;
}

class PrefixedAttention : public testing::TestWithParam<PrefixCase> {};

TEST_P(PrefixedAttention, HasTheBitsOfTheSameRowsAppended) {
  const PrefixCase& c = GetParam();
  const int64_t kv_width = int64_t{c.num_kv_heads} * c.head_dim;
  const int32_t num_qo_heads = c.num_kv_heads * c.group;
  SplitMix64 rng(11);
  // f16 values: those of a 32-bit side are the same.
  const auto rows = [&](int64_t count, double spread) {
    std::vector<float> x = random_floats(rng, count * kv_width, spread);
    for (float& value : x) value = half_to_float(float_to_half(value));
    return x;
  };
  const std::vector<float> k = rows(c.prefix, 4.0), v = rows(c.prefix, 2.0);
  auto prefix = std::make_shared<IntactPrefix>();
  prefix->num_layers = 1;
  prefix->num_kv_heads = c.num_kv_heads;
  prefix->head_dim = c.head_dim;
  prefix->tokens.assign(static_cast<size_t>(c.prefix), 0);
  prefix->k = by_head(k, c);
  prefix->v = by_head(v, c);
  const ResolvedRecipe recipe =
      resolve_recipe(parse_recipe(c.recipe), {1, c.num_kv_heads, c.head_dim, {c.window}}, c.prefix);

  KvCache given({recipe, prefix}), appended(recipe);
  constexpr size_t kSequences = 3;  // one batch, each a text of its own
  std::vector<KvSequence> with, without;
  std::vector<AppendStage> stages(2 * kSequences);
  for (size_t i = 0; i < kSequences; ++i) {
    with.push_back(given.new_sequence());
    without.push_back(appended.new_sequence());
    without.back().append(0, k.data(), v.data(), c.prefix, stages[0]);
    without.back().commit(0, stages[0]);
  }
  ThreadPool pool(3);
  AttendWorkspace workspace;
  const auto outputs = [&](std::vector<KvSequence>& sequences, size_t first_stage,
                           const std::vector<std::vector<float>>& queries, Isa isa,
                           AttendPrecision precision) {
    std::vector<std::vector<float>> out(queries.size());
    std::vector<AttendItem> items;
    for (size_t i = 0; i < sequences.size(); ++i) {
      out[i].resize(queries[i].size());
      items.push_back({&stages[first_stage + i].view(), queries[i].data(), out[i].data()});
    }
    attend({.items = items,
            .num_qo_heads = num_qo_heads,
            .scale = 0.1f,
            .softcap = 0,
            .alibi_slopes = {},
            .precision = precision},
           pool, workspace, isa);
    return out;
  };
  for (const int64_t n : {1, 40, 1, 3, 130, 1, 17, 1}) {
    std::vector<std::vector<float>> queries;
    for (size_t i = 0; i < kSequences; ++i) {
      const std::vector<float> new_k = rows(n, 4.0), new_v = rows(n, 2.0);
      queries.push_back(random_floats(rng, n * kv_width * c.group, 2.0));
      with[i].append(0, new_k.data(), new_v.data(), n, stages[i]);
      without[i].append(0, new_k.data(), new_v.data(), n, stages[kSequences + i]);
    }
    for (const Isa isa : test::isas()) {
      for (const auto precision : {AttendPrecision::kF32, AttendPrecision::kBF16}) {
        ASSERT_EQ(outputs(with, 0, queries, isa, precision),
                  outputs(without, kSequences, queries, isa, precision))
            << isa_name(isa) << ", " << n << " tokens after " << with[0].length();
      }
    }
    for (size_t i = 0; i < kSequences; ++i) {
      with[i].commit(0, stages[i]);
      without[i].commit(0, stages[kSequences + i]);
      for (int32_t head = 0; head < c.num_kv_heads; ++head) {
        for (const Side side : {Side::kKey, Side::kValue}) {
          ASSERT_EQ(with[i].state_bytes(0, head, side), without[i].state_bytes(0, head, side));
        }
      }
    }
  }
  EXPECT_EQ(with[0].length(), c.prefix + 194);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, PrefixedAttention,
    testing::Values(PrefixCase{"16", 64, 3, 3, 1}, PrefixCase{"16", 64, 1, 3, 24},
                    PrefixCase{"32", 8, 2, 2, 33}, PrefixCase{"32/4:r7", 80, 1, 2, 130},
                    PrefixCase{"8:r16", 64, 3, 3, 128}, PrefixCase{"4", 64, 1, 4, 300},
                    PrefixCase{"kivi-2:r32", 64, 3, 3, 24},
                    PrefixCase{"kivi-2:r32", 128, 1, 2, 129},
                    PrefixCase{"kivi-2:r32+i40", 64, 1, 3, 24}, PrefixCase{"3:r9", 80, 2, 1, 600},
                    PrefixCase{"kivi-2:r32", 64, 2, 3, 140, 60},
                    PrefixCase{"16", 64, 1, 2, 30, 100}, PrefixCase{"16", 96, 1, 2, 31}),
    [](const auto& p) { return "case" + std::to_string(p.index); });

}  // namespace
}  // namespace lowkey
