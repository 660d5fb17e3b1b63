#include "model/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "model/cache_attention.h"
#include "model/model_support.h"
#include "model/prefill_ops.h"
#include "model/reference_model.h"
#include "support/allocations.h"
#include "support/memory.h"

namespace lowkey {
namespace {

using test::expect_equal_greedy;
using test::largest_difference;
using test::LoadedModel;
using test::reference_logits;
using test::run_logits;
using test::some_tokens;
using test::TinyModelOptions;
using test::variants;

// Tiny models' logits are sums of `hidden` products of unit-variance numbers: up to about 30. Two
// or three layers of float rounding, each relative to values of that size, leave 1e-5 or so; 1e-3
// catches any wrong term, the smallest of which (one token of 100 out of its place) is above 1e-2.
constexpr double kFloatBound = 1e-3;

double root_mean_square(const std::vector<float>& values) {
  double squares = 0;
  for (float value : values) squares += double{value} * double{value};
  return std::sqrt(squares / static_cast<double>(values.size()));
}

double root_mean_square(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> difference(a);
  for (size_t i = 0; i < a.size(); ++i) difference[i] -= b[i];
  return root_mean_square(difference);
}

// ATen's bf16 products round what goes in and what comes out to 8 bits: relative errors of up to
// 2^-8, 2^-9 in the mean, which a sum of many such terms averages but does not enlarge. Those of
// seven products per layer and the head add up in quadrature. Ours round only what goes in, but do
// so in attention too: two products more.
void expect_equal_in_bfloat16(const std::vector<float>& actual, const std::vector<float>& expected,
                              int32_t layers) {
  const double bound = std::sqrt(7.0 * layers + 1) * 0x1p-9;
  EXPECT_LE(root_mean_square(actual, expected), bound * root_mean_square(expected));
}

std::vector<int32_t> tokens_for(const LoadedModel& loaded, int64_t count = 100) {
  return some_tokens(count, loaded.config().vocab_size);
}

TEST(Model, BothBackendsEqualTheDoubleReference) {
  for (const auto& [name, options] : variants()) {
    SCOPED_TRACE(name);
    LoadedModel loaded(options);
    const std::vector<int32_t> tokens = tokens_for(loaded);
    const std::vector<double> expected = reference_logits(loaded.file(), tokens);
    EXPECT_LE(largest_difference(run_logits(loaded, "32", tokens, 100, Backend::kAten), expected),
              kFloatBound);
    EXPECT_LE(largest_difference(run_logits(loaded, "32", tokens, 1, Backend::kNative), expected),
              kFloatBound);
    EXPECT_LE(largest_difference(run_logits(loaded, "32", tokens, 7, Backend::kNative), expected),
              kFloatBound);
  }
}

TEST(Model, BFloat16WeightsEqualTheRoundedReference) {
  for (const auto& [name, options] : variants()) {
    SCOPED_TRACE(name);
    LoadedModel loaded(options, WeightStorage::kBF16);
    const std::vector<int32_t> tokens = tokens_for(loaded, 50);
    const std::vector<double> expected =
        reference_logits(loaded.file(), tokens, WeightStorage::kBF16);
    // Natively only the weights are rounded, and so are the reference's.
    EXPECT_LE(largest_difference(run_logits(loaded, "32", tokens, 8, Backend::kNative), expected),
              kFloatBound);
    expect_equal_in_bfloat16(run_logits(loaded, "32", tokens, 50, Backend::kAten),
                             {expected.begin(), expected.end()}, options.layers);
    if (!PrefillOps::suits(loaded.model().weights())) continue;
    for (const char* recipe : {"32", "16"}) {  // with attention in f32, and in bf16
      expect_equal_in_bfloat16(run_logits(loaded, recipe, tokens, 50, Backend::kPrefill),
                               {expected.begin(), expected.end()}, options.layers);
    }
  }
}

// Reading GGUF's interleaved rows in order is reading the same numbers: not a bit may differ.
TEST(Model, GgufAndHuggingFaceGiveTheSameBits) {
  for (const auto& [name, options] : variants()) {
    if (options.rope_scaling != RopeScaling::kNone) continue;  // divisors round on their own
    SCOPED_TRACE(name);
    for (WeightStorage storage : {WeightStorage::kF32, WeightStorage::kFile}) {
      LoadedModel hugging_face(options, storage);
      LoadedModel gguf(options, storage, 2, ModelFormat::kGguf);
      const std::vector<int32_t> tokens = tokens_for(gguf, 30);
      EXPECT_EQ(run_logits(gguf, "32", tokens, 1, Backend::kNative),
                run_logits(hugging_face, "32", tokens, 1, Backend::kNative));
      EXPECT_EQ(run_logits(gguf, "32", tokens, 30, Backend::kAten),
                run_logits(hugging_face, "32", tokens, 30, Backend::kAten));
    }
  }
}

TEST(Model, GgufAndHuggingFaceScaleRopeAlike) {
  for (RopeScaling scaling : {RopeScaling::kLinear, RopeScaling::kLlama3}) {
    const TinyModelOptions options{.seed = 5, .rope_scaling = scaling};
    LoadedModel hugging_face(options);
    LoadedModel gguf(options, WeightStorage::kF32, 2, ModelFormat::kGguf);
    const std::vector<int32_t> tokens = tokens_for(gguf);
    EXPECT_LE(largest_difference(run_logits(gguf, "32", tokens, 1),
                                 run_logits(hugging_face, "32", tokens, 1)),
              kFloatBound);
  }
}

// Weights as the file has them are decoded exactly, so natively f32 copies change nothing.
TEST(Model, KeepingTheFilesWeightsChangesNoBitNatively) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const TinyModelOptions options{.seed = 11, .tied = false, .dtype = dtype};
    LoadedModel copied(options, WeightStorage::kF32);
    LoadedModel kept(options, WeightStorage::kFile);
    const std::vector<int32_t> tokens = tokens_for(kept, 30);
    EXPECT_EQ(run_logits(kept, "16", tokens, 5, Backend::kNative),
              run_logits(copied, "16", tokens, 5, Backend::kNative))
        << dtype_name(dtype);
    expect_equal_in_bfloat16(run_logits(kept, "16", tokens, 30, Backend::kAten),
                             run_logits(copied, "16", tokens, 30, Backend::kAten), options.layers);
  }
}

TEST(Model, BlocksKeptInTheFileEqualFloatsOnTheRealModel) {
  const auto path = test::real_model();
  if (!path) GTEST_SKIP() << "SmolLM2 is not here: ./dev setup brings it";
  LoadedModel copied(*path), kept(*path, WeightStorage::kFile);
  const std::vector<int32_t> tokens = tokens_for(kept, 24);
  const std::vector<float> expected = run_logits(copied, "16", tokens, 8, Backend::kNative);
  EXPECT_EQ(run_logits(kept, "16", tokens, 8, Backend::kNative), expected);
  // Through ATen they are unpacked to bf16 where the processor multiplies that.
  expect_equal_in_bfloat16(run_logits(kept, "16", tokens, 24, Backend::kAten), expected,
                           kept.config().num_layers);
  // Only the interleaved Q and K (and the norms) are copies.
  EXPECT_LT(kept.model().weights().owned_bytes(), 10'000'000);
}

// Strips hold the same weights and quantize their inputs to 16 bits, an error of about 1e-5 per
// product (linear/strip_kernels.h), which thirty layers add up. What two bytes per input keep shows
// beside bf16 weights.
TEST(Model, StripsEqualBlocksOnTheRealModel) {
  const auto path = test::real_model();
  if (!path) GTEST_SKIP() << "SmolLM2 is not here: ./dev setup brings it";
  LoadedModel kept(*path, WeightStorage::kFile), packed(*path, WeightStorage::kPacked),
      rounded(*path, WeightStorage::kBF16);
  const std::vector<int32_t> tokens = tokens_for(kept, 24);
  const std::vector<float> expected = run_logits(kept, "16", tokens, 8, Backend::kNative);
  const double error =
      root_mean_square(run_logits(packed, "16", tokens, 8, Backend::kNative), expected);
  EXPECT_LE(error, 1e-3 * root_mean_square(expected, std::vector<float>(expected.size())));
  EXPECT_LE(10 * error,
            root_mean_square(run_logits(rounded, "16", tokens, 8, Backend::kNative), expected));
  // The same bytes as the file's, but for rows that fill up the last strips, and the norms.
  EXPECT_LT(packed.model().weights().owned_bytes(), 98'000'000);
}

TEST(Model, PrefillInPiecesEqualsPrefillAtOnce) {
  LoadedModel loaded({.seed = 12, .head_dim = 32});
  const std::vector<int32_t> tokens = tokens_for(loaded, 150);
  const int64_t vocab = loaded.config().vocab_size;
  const std::vector<float> exact = run_logits(loaded, "32", tokens, 150);
  for (const char* recipe : {"32", "16", "8", "kivi-4:r32", "kivi-2:r32+i1", "4:r16"}) {
    const std::vector<float> at_once = run_logits(loaded, recipe, tokens, 150);
    // Matrix products of other shapes round differently. Where values are packed, that can tip one
    // of the 38,400 codes over to its neighbour: a small part of what packing costs, whereas a
    // token seen in the wrong form would be of its order. Decode multiplies packed codes by 16-bit
    // integers, which is off by up to 3e-4 of what attention gives
    // (tests/attention/decode_test.cc), in each layer for itself.
    const double packing = root_mean_square(at_once, exact);
    const double size = root_mean_square(at_once, std::vector<float>(at_once.size()));
    const double integers = 3e-4 * size * std::sqrt(loaded.config().num_layers);
    for (int64_t chunk : {64, 33, 32, 9, 7, 1}) {
      SCOPED_TRACE(fmt::format("{} in pieces of {}", recipe, chunk));
      const std::vector<float> pieces = run_logits(loaded, recipe, tokens, chunk);
      const bool packed = packing > kFloatBound;
      const double bound = chunk == 1 ? std::hypot(0.1 * packing, integers) : 0.1 * packing;
      EXPECT_LE(root_mean_square(pieces, at_once), packed ? bound : kFloatBound);
      const double margin = packed ? packing : 2 * kFloatBound;
      EXPECT_GT(expect_equal_greedy(at_once, pieces, vocab, margin), 75);
    }
  }
}

TEST(Model, ABatchGivesEachSequenceWhatItGetsAlone) {
  for (bool tied : {true, false}) {
    LoadedModel loaded({.head_dim = 32, .tied = tied});
    const int64_t hidden_size = loaded.config().hidden_size;
    const std::vector<std::vector<int32_t>> prompts{some_tokens(20, 290, 1), some_tokens(3, 290, 2),
                                                    some_tokens(41, 290, 3)};
    const auto cache = loaded.cache("kivi-4:r32");
    std::vector<KvSequence> together, alone;
    for (size_t i = 0; i < prompts.size(); ++i) {
      together.push_back(cache->new_sequence());
      alone.push_back(cache->new_sequence());
    }
    // The prompts in one step of 64 rows.
    std::vector<StepItem> items;
    for (size_t i = 0; i < prompts.size(); ++i) items.push_back({&together[i], prompts[i]});
    std::vector<float> hidden(prompts.size() * static_cast<size_t>(hidden_size));
    loaded.model().forward(items, hidden.data());
    const auto row = [&](size_t i) {
      return std::vector<float>(hidden.begin() + static_cast<int64_t>(i) * hidden_size,
                                hidden.begin() + static_cast<int64_t>(i + 1) * hidden_size);
    };
    for (size_t i = 0; i < prompts.size(); ++i) {
      std::vector<float> own(static_cast<size_t>(hidden_size));
      const StepItem item{&alone[i], prompts[i]};
      loaded.model().forward({&item, 1}, own.data(), Backend::kAten);
      EXPECT_LE(largest_difference(own, row(i)), kFloatBound) << "prompt " << i;
    }
    // Decode: not a bit depends on who else is in the step. Both sides go on from the same states.
    for (size_t i = 0; i < prompts.size(); ++i) alone[i] = together[i].fork();
    for (int32_t token = 0; token < 5; ++token) {
      for (size_t i = 0; i < prompts.size(); ++i) items[i] = {&together[i], {&token, 1}};
      loaded.model().forward(items, hidden.data());
      for (size_t i = 0; i < prompts.size(); ++i) {
        std::vector<float> own(static_cast<size_t>(hidden_size));
        const StepItem item{&alone[i], {&token, 1}};
        loaded.model().forward({&item, 1}, own.data());
        EXPECT_EQ(own, row(i)) << "sequence " << i << ", token " << token;
      }
    }
  }
}

TEST(Model, ThreadsDoNotChangeABitNatively) {
  const TinyModelOptions options{.head_dim = 32};
  LoadedModel one(options, WeightStorage::kBF16, 1), three(options, WeightStorage::kBF16, 3);
  const std::vector<int32_t> tokens = tokens_for(one, 60);
  EXPECT_EQ(run_logits(one, "kivi-4:r32", tokens, 4), run_logits(three, "kivi-4:r32", tokens, 4));
}

TEST(Model, GivesTheRowsThatAreWanted) {
  LoadedModel loaded{TinyModelOptions{}};
  const auto cache = loaded.cache("32");
  const auto hidden_size = static_cast<size_t>(loaded.config().hidden_size);
  for (int64_t count : {5, 20}) {  // natively and through ATen
    const std::vector<int32_t> tokens = tokens_for(loaded, count);
    KvSequence a = cache->new_sequence();
    const std::vector<float> all = test::run(loaded.model(), a, tokens, count);

    KvSequence b = cache->new_sequence();
    std::vector<float> last(hidden_size);
    const StepItem wants_last{&b, tokens, RowsWanted::kLast};
    loaded.model().forward({&wants_last, 1}, last.data());
    EXPECT_LE(largest_difference(
                  last, std::vector<float>(all.end() - loaded.config().hidden_size, all.end())),
              kFloatBound);

    KvSequence c = cache->new_sequence();
    const StepItem wants_none{&c, tokens, RowsWanted::kNone};
    loaded.model().forward({&wants_none, 1}, nullptr);
    EXPECT_EQ(c.length(), count);

    // All three stored the same: the next token sees no difference.
    std::vector<std::vector<float>> next;
    for (KvSequence* sequence : {&a, &b, &c}) {
      const int32_t token = 7;
      next.emplace_back(hidden_size);
      const StepItem item{sequence, {&token, 1}};
      loaded.model().forward({&item, 1}, next.back().data());
    }
    EXPECT_EQ(next[0], next[1]);
    EXPECT_EQ(next[0], next[2]);
  }
}

// Keeps everything it is shown.
class Recorder : public StepWatcher {
 public:
  explicit Recorder(const ModelConfig& config) : config_(config) {}
  void residual(int32_t layer, const float* x, int64_t rows) override {
    residuals[layer].assign(x, x + rows * config_.hidden_size);
  }
  void attention(int32_t layer, const float*, const float* k, const float*, int64_t rows) override {
    keys[layer].assign(k, k + rows * config_.num_kv_heads * config_.head_dim);
  }

  std::map<int32_t, std::vector<float>> residuals, keys;

 private:
  const ModelConfig& config_;
};

TEST(Model, AWatchedStepCanBeResumedAtAnyLayer) {
  struct Case {
    int64_t tokens;
    WeightStorage storage;
  };
  // Natively, through ATen, and in bf16 where the machine has it.
  for (const Case& c : {Case{5, WeightStorage::kF32}, Case{20, WeightStorage::kF32},
                        Case{40, WeightStorage::kBF16}}) {
    LoadedModel loaded({.layers = 4, .head_dim = 32}, c.storage);
    const auto cache = loaded.cache("32");
    const std::vector<int32_t> tokens = tokens_for(loaded, c.tokens);
    Recorder recorder(loaded.config());
    KvSequence whole = cache->new_sequence();
    std::vector<float> expected(static_cast<size_t>(c.tokens * loaded.config().hidden_size));
    const StepItem item{&whole, tokens, RowsWanted::kAll};
    loaded.model().forward({&item, 1}, expected.data(), {.watcher = &recorder});
    ASSERT_EQ(recorder.residuals.size(), 5U);
    EXPECT_NE(recorder.residuals[1], recorder.residuals[2]);
    // Keys as shown are keys as stored: one KV head's rows after another's.
    std::string keys;
    const int64_t heads = loaded.config().num_kv_heads, dim = loaded.config().head_dim;
    for (int64_t t = 0; t < c.tokens; ++t) {
      const float* row = recorder.keys[2].data() + t * heads * dim;
      keys.append(reinterpret_cast<const char*>(row), static_cast<size_t>(dim) * sizeof(float));
    }
    EXPECT_TRUE(whole.state_bytes(2, 0, Side::kKey).ends_with(keys));

    for (int32_t layer = 1; layer < 4; ++layer) {
      KvSequence part = cache->new_sequence();
      std::vector<float> hidden(expected.size());
      const StepItem resumed{&part, tokens, RowsWanted::kAll};
      loaded.model().forward({&resumed, 1}, hidden.data(),
                             {.first_layer = layer, .residual = recorder.residuals[layer].data()});
      EXPECT_EQ(hidden, expected) << "resumed at layer " << layer;
      EXPECT_EQ(part.length(layer), c.tokens);
      EXPECT_EQ(part.length(), 0) << "layers before were left out";
    }
  }
}

TEST(Model, AnEmptyStepIsNoWork) {
  LoadedModel loaded{TinyModelOptions{}};
  loaded.model().forward({}, nullptr);
  loaded.model().logits(nullptr, 0, nullptr);
}

TEST(Model, BadTokensLeaveTheSequencesUntouched) {
  LoadedModel loaded({.head_dim = 32});
  const auto cache = loaded.cache("kivi-4:r32");
  KvSequence a = cache->new_sequence(), b = cache->new_sequence();
  const std::vector<int32_t> good{1, 2, 3}, bad{1, 100000};
  std::vector<float> hidden(2 * static_cast<size_t>(loaded.config().hidden_size));
  const std::vector<StepItem> items{{&a, good}, {&b, bad}};
  EXPECT_THROW(loaded.model().forward(items, hidden.data()), Error);
  EXPECT_EQ(a.length(), 0);
  EXPECT_EQ(b.length(), 0);
}

TEST(Model, SameMemoryForBothBackendsAndForATiedHead) {
  LoadedModel tied(TinyModelOptions{}, WeightStorage::kBF16),
      untied({.tied = false}, WeightStorage::kBF16);
  const ModelWeights& weights = tied.model().weights();
  EXPECT_EQ(weights.head().data(), weights.embedding.data());
  EXPECT_NE(untied.model().weights().head().data(), untied.model().weights().embedding.data());
  const int64_t embedding = int64_t{320} * 64 * 2;
  EXPECT_EQ(untied.model().weights().owned_bytes() - weights.owned_bytes(), embedding);
}

TEST(Model, ReportsProgressAndStopsWhenAsked) {
  const test::TempDir folder;
  test::TinyModel().write_hugging_face(folder / "tiny");
  const ModelFile file = ModelFile::open(folder / "tiny");
  ThreadPool pool(2);
  int64_t last = -1, total = 0;
  Model::load(file, WeightStorage::kBF16, pool,
              [&](std::string_view what, int64_t done, int64_t all) {
                EXPECT_EQ(what, "loading weights");
                EXPECT_GE(done, last);
                last = done;
                total = all;
              });
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, static_cast<int64_t>(file.weight_bytes()));
  EXPECT_THROW(Model::load(file, WeightStorage::kBF16, pool,
                           [](std::string_view, int64_t done, int64_t) {
                             if (done > 0) fail(ErrorCode::kCancelled, "stopped");
                           }),
               Error);
}

TEST(Model, TorchsErrorsBecomeOurs) {
  LoadedModel loaded(TinyModelOptions{}, WeightStorage::kBF16);
  const float value = 0;
  float out = 0;
  try {
    // More memory than an address space has: refused before anything is read.
    loaded.model().logits(&value, int64_t{1} << 43, &out);
    FAIL() << "allocated a petabyte";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    EXPECT_THAT(error.what(), ::testing::StartsWith("libtorch: "));
    EXPECT_THAT(error.what(), ::testing::Not(::testing::HasSubstr("\n")));
  }
}

// Decodes 250 tokens of three sequences with `step` and counts the allocations of the last 80: by
// then workspaces have grown, and all sequences have pages for the next tokens.
template <typename Step>
int64_t steady_allocations(const LoadedModel& loaded, const std::string& recipe, const Step& step) {
  const auto cache = loaded.cache(recipe);
  std::vector<KvSequence> sequences;
  for (int i = 0; i < 3; ++i) sequences.push_back(cache->new_sequence());
  std::vector<StepItem> items(3);
  const auto decode = [&](int32_t token) {
    for (size_t i = 0; i < 3; ++i) items[i] = {&sequences[i], {&token, 1}};
    step(items);
  };
  for (int32_t token = 0; token < 170; ++token) decode(token);
  const test::AllocationCount count;
  for (int32_t token = 170; token < 250; ++token) decode(token);
  return count.since();
}

// Decoding with the whole of `loaded`: three sequences at a time.
int64_t steady_allocations(LoadedModel& loaded, const std::string& recipe) {
  const ModelConfig& config = loaded.config();
  std::vector<float> hidden(3 * static_cast<size_t>(config.hidden_size));
  std::vector<float> logits(3 * static_cast<size_t>(config.vocab_size));
  return steady_allocations(loaded, recipe, [&](std::span<const StepItem> items) {
    loaded.model().forward(items, hidden.data());
    loaded.model().logits(hidden.data(), 3, logits.data());
  });
}

TEST(Model, DecodingAllocatesNothing) {
  // One thread: each makes itself a workspace when it first gets to attend, sooner or later.
  LoadedModel loaded({.head_dim = 32}, WeightStorage::kBF16, 1);
  for (const char* recipe : {"16", "8", "kivi-4:r32+i1"}) {
    EXPECT_EQ(steady_allocations(loaded, recipe), 0) << recipe;
  }
}

TEST(Model, DecodingPackedWeightsAllocatesNothing) {
  const auto path = test::real_model();
  if (!path) GTEST_SKIP() << "SmolLM2 is not here: ./dev setup brings it";
  LoadedModel loaded(*path, WeightStorage::kPacked, 1);
  EXPECT_EQ(steady_allocations(loaded, "kivi-4"), 0);
}

// ATen's own threads are libgomp's, which spin: a decode step must never wake them.
TEST(Model, DecodingStartsNoThreads) {
  LoadedModel loaded({.head_dim = 32}, WeightStorage::kBF16, 2);
  const auto threads = [] {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  };
  const auto before = threads();
  steady_allocations(loaded, "16");
  EXPECT_EQ(threads(), before);
}

TEST(Model, RealModelInBFloat16StaysSmall) {
  const auto path = test::real_model();
  if (!path) GTEST_SKIP() << "SmolLM2 is not here: ./dev setup brings it";
  const test::PeakMemory peak = test::peak_memory_of([&] {
    LoadedModel loaded(*path, WeightStorage::kBF16);
    const auto cache = loaded.cache("16");
    KvSequence sequence = cache->new_sequence();
    const std::vector<int32_t> tokens = tokens_for(loaded, 512);
    std::vector<float> hidden(static_cast<size_t>(loaded.config().hidden_size));
    const StepItem item{&sequence, tokens};
    loaded.model().forward({&item, 1}, hidden.data());
  });
  // 269 MB of weights, 98 MB of mapped file, activations and what libtorch keeps. `run` as a whole
  // may take 1 GB, of which libtorch's start takes 0.18.
  EXPECT_LT(peak.bytes, 700'000'000u);
}

}  // namespace
}  // namespace lowkey
