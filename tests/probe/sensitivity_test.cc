#include "probe/sensitivity.h"

#include <gtest/gtest.h>

#include "engine/engine.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

// Against recipes written out by hand.
TEST(LayerSensitivityOf, LowersAndRestoresOneLayerAtATime) {
  const test::TempDir folder;
  test::TinyModel({.seed = 3, .layers = 3, .head_dim = 32}).write_gguf(folder.path() / "tiny.gguf");
  Engine engine(folder.path() / "tiny.gguf", {.weights = WeightStorage::kF32, .threads = 2}, {});
  Document document{"d", {}, {{1, 120}}};
  for (int i = 0; i < 120; ++i) document.tokens.push_back(i * 31 % 250);
  Scorer scorer(engine.model(), {document}, engine.pool());
  const auto candidates = parse_candidates("kivi-2:r32");
  const auto all = layer_sensitivity(scorer, engine.kv_shape(), candidates, 1, {});
  ASSERT_EQ(all.size(), 6u);
  const char* recipes[] = {"0=kivi-2:r32,*=16+i1", "1=kivi-2:r32,*=16+i1", "2=kivi-2:r32,*=16+i1",
                           "0=16,*=kivi-2:r32+i1", "1=16,*=kivi-2:r32+i1", "2=16,*=kivi-2:r32+i1"};
  const double plain = summarize(scorer.reference()).perplexity;
  for (size_t i = 0; i < 6; ++i) {
    const Summary summary =
        summarize(scorer.score(resolve_recipe(parse_recipe(recipes[i]), engine.kv_shape())));
    EXPECT_EQ(all[i].layer, static_cast<int32_t>(i % 3));
    EXPECT_EQ(all[i].direction, i < 3 ? Perturbation::kLowered : Perturbation::kRestored);
    EXPECT_EQ(all[i].candidate, "KV2");
    EXPECT_EQ(all[i].kl, summary.kl_mean);
    EXPECT_GT(all[i].kl, 0);
    EXPECT_EQ(all[i].ppl_delta_percent, (summary.perplexity / plain - 1) * 100);
  }
}

}  // namespace
}  // namespace lowkey
