// The plan against a process: a model is loaded, sequences are filled and decode together, and what
// became resident is compared with what was planned.
#include <gtest/gtest.h>

#include <vector>

#include "engine/engine.h"
#include "memory_plan.h"
#include "support/memory.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

constexpr int64_t kTokens = 400;
constexpr int64_t kBatch = 24;

// Prompts one after the other, then one token of every sequence together.
void prompt_and_decode(Engine& engine, const ResolvedRecipe& recipe, int64_t tokens,
                       int64_t batch) {
  const ModelConfig& config = engine.model().config();
  KvCache cache(recipe);
  std::vector<KvSequence> sequences;
  const std::vector<int32_t> prompt(static_cast<size_t>(tokens - 1), 7);
  for (int64_t i = 0; i < batch; ++i) {
    sequences.push_back(cache.new_sequence());
    prefill(engine.model(), sequences.back(), prompt, RowsWanted::kNone, nullptr, {}, "");
  }
  std::vector<StepItem> items;
  for (KvSequence& sequence : sequences) items.push_back({&sequence, {prompt.data(), 1}});
  std::vector<float> hidden(static_cast<size_t>(batch * config.hidden_size));
  std::vector<float> logits(static_cast<size_t>(batch * config.vocab_size));
  engine.model().forward(items, hidden.data());
  engine.model().logits(hidden.data(), batch, logits.data());
  EXPECT_EQ(cache.usage().in_use(), bytes_at(recipe, tokens).total() * batch);
}

TEST(PlanMemory, IsWhatAProcessTakes) {
  const test::TempDir folder;
  test::TinyModel({.layers = 3,
                   .hidden = 512,
                   .heads = 8,
                   .kv_heads = 8,
                   .head_dim = 64,
                   .ffn = 2048,
                   .vocab = 8192,
                   .dtype = DType::kBF16})
      .write_gguf(folder / "model.gguf");
  for (const char* text : {"16", "kivi-2:r32"}) {
    SCOPED_TRACE(text);
    // A fresh engine: its buffers grow to what a step needs, and stay.
    Engine engine(folder / "model.gguf", {.weights = WeightStorage::kBF16, .threads = 2}, {});
    if (engine.model().prefill_bytes() == 0) {
      GTEST_SKIP() << "no AVX512_BF16: prompts run on libtorch, whose memory is its own affair";
    }
    const MemoryPlan plan(parse_recipe(text), engine.model().config(), 0);
    prompt_and_decode(engine, plan.recipe(), 20, 1);  // libraries become resident
    const test::PeakMemory peak =
        test::peak_memory_of([&] { prompt_and_decode(engine, plan.recipe(), kTokens, kBatch); });
    if (peak.bytes == 0) GTEST_SKIP() << "under a sanitizer";
    // Huge pages round up, and a chunk of the cache's pool may be begun.
    const auto planned = static_cast<double>(plan.need(kTokens, kBatch).total());
    EXPECT_LT(static_cast<double>(peak.bytes), planned * 1.15);
    EXPECT_GT(static_cast<double>(peak.bytes), planned * 0.85);
    EXPECT_EQ(engine.model().prefill_bytes(), prompt_weights_bytes(engine.model().config()));
  }
}

}  // namespace
}  // namespace lowkey
