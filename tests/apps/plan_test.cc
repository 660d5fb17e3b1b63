#include "plan.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "architectures.h"
#include "cache/kv_cache.h"
#include "core/error.h"
#include "core/rng.h"
#include "load/model_file.h"
#include "memory_plan.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

// A shape of few layers and heads, else like the model's.
ModelConfig config_of(int32_t layers, int32_t kv_heads, int32_t head_dim) {
  ModelConfig config;
  config.num_layers = layers;
  config.num_kv_heads = kv_heads;
  config.num_qo_heads = kv_heads;
  config.head_dim = head_dim;
  config.hidden_size = kv_heads * head_dim;
  config.intermediate_size = 2 * config.hidden_size;
  config.vocab_size = 1000;
  return config;
}

// Random keys and values, appended in uneven steps to `batch` sequences of a real cache: what its
// allocator holds then.
CacheUsage allocated(const ResolvedRecipe& recipe, int64_t tokens, int64_t batch) {
  const KvShape& shape = recipe.shape;
  const int64_t width = int64_t{shape.num_kv_heads} * shape.head_dim;
  SplitMix64 rng(static_cast<uint64_t>(tokens));
  KvCache cache(recipe);
  std::vector<KvSequence> sequences;
  AppendStage stage;
  for (int64_t s = 0; s < batch; ++s) {
    KvSequence& sequence = sequences.emplace_back(cache.new_sequence());
    while (sequence.length() < tokens) {
      const int64_t left = tokens - sequence.length();
      const auto n = static_cast<int64_t>(1 + rng.below(static_cast<uint64_t>(left)));
      std::vector<float> x(static_cast<size_t>(2 * n * width));
      for (float& value : x) value = static_cast<float>(rng.uniform() - 0.5);
      for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
        sequence.append(layer, x.data(), x.data() + n * width, n, stage);
        sequence.commit(layer, stage);
      }
    }
  }
  return cache.usage();
}

TEST(MemoryPlan, IsWhatTheAllocatorHolds) {
  const ModelConfig config = config_of(2, 3, 64);
  for (const char* text : {"16", "32", "8", "4:g32", "8/3", "kivi-4", "kivi-2:r32", "kivi-2:r32+i1",
                           "kivi-4/2:r32:block", "0=16,*=kivi-2:g64:r64", "2:r40+i5"}) {
    const MemoryPlan plan(parse_recipe(text), config, 1000);
    for (const int64_t tokens : {1, 31, 127, 128, 129, 260, 498}) {
      for (const int64_t batch : {1, 3}) {
        SCOPED_TRACE(fmt::format("{} at {} x {}", text, tokens, batch));
        const MemoryNeed need = plan.need(tokens, batch);
        const CacheUsage usage = allocated(plan.recipe(), tokens, batch);
        EXPECT_EQ(need.kv.pages, usage.page_bytes);
        EXPECT_EQ(need.kv.windows, usage.window_bytes);
        EXPECT_EQ(need.kv.prefix, usage.prefix_bytes);
        EXPECT_EQ(need.kv.total(), usage.in_use());
        EXPECT_EQ(need.total(), usage.in_use() + 1000 + need.workspace);
      }
    }
  }
}

// KIVI's memory experiment (Llama-2-7B in 16 bits, prompts of 160 and answers of 338 tokens, as
// many sequences as 80 GB hold with a 16-bit cache): docs/performance.md. The cache of a model
// scaled down in layers and heads is really filled; pages and windows are per layer and head, so
// the large one's bytes are multiples of it.
TEST(MemoryPlan, KivisExperimentOnAScaledDownModel) {
  const ModelConfig llama = find_architecture("llama-2-7b")->config();
  const int64_t weights = 2 * parameter_count(llama);
  ModelConfig small = llama;
  small.num_layers = 2;
  small.num_qo_heads = small.num_kv_heads = 4;
  const int64_t scale = 32 / 2 * (32 / 4);
  constexpr int64_t kTokens = 160 + 338;

  const auto measured = [&](const char* text, int64_t batch) {
    constexpr int64_t kSequences = 2;
    const MemoryPlan plan(parse_recipe(text), small, 0);
    return allocated(plan.recipe(), kTokens, kSequences).in_use() * scale * batch / kSequences;
  };
  const MemoryPlan plain(parse_recipe("16"), llama, weights);
  const int64_t batch = plain.largest_batch(80'000'000'000, kTokens);
  EXPECT_EQ(batch, 247);
  const int64_t workspace = workspace_bytes(llama, kTokens, batch);
  const auto total = [&](const char* text) {
    const int64_t kv = measured(text, batch);
    EXPECT_EQ(MemoryPlan(parse_recipe(text), llama, weights).need(kTokens, batch).kv.total(), kv);
    return static_cast<double>(weights + kv + workspace);
  };
  EXPECT_GE(total("16") / total("kivi-2:r32"), 2.6);
  // With the paper's R = 128 half of such short sequences stays exact.
  EXPECT_NEAR(total("16") / total("kivi-2"), 2.02, 0.01);
}

// A prefix's file lies in memory once, unless the recipe keeps more tokens exact in each sequence.
TEST(MemoryPlan, CountsASharedPrefixOnce) {
  const ModelConfig config = config_of(3, 2, 64);
  const auto kv = [&](const char* text, int64_t tokens, int64_t batch) {
    return MemoryPlan(parse_recipe(text), config, 0, tokens).need(1000, batch).kv;
  };
  const int64_t one = int64_t{24} * 3 * 2 * 64 * 2 * 2;  // tokens, layers, heads, K and V in f16
  EXPECT_EQ(kv("4+i@p", 24, 1).prefix, one);
  EXPECT_EQ(kv("4+i@p", 24, 8).prefix, one);
  EXPECT_EQ(kv("4+i24", 0, 8).prefix, 8 * one);
  EXPECT_EQ(kv("4+i24", 12, 8).prefix, 8 * one);
  EXPECT_EQ(kv("4+i@p", 24, 8).pages, kv("4+i24", 0, 8).pages);
}

TEST(MemoryPlan, WhatFitsIsTheMost) {
  const ModelConfig config = config_of(2, 2, 64);
  constexpr int64_t kWeights = 5'000'000;
  for (const char* text : {"16", "kivi-2:r32", "4"}) {
    const MemoryPlan plan(parse_recipe(text), config, kWeights);
    for (const int64_t memory : {8'000'000, 20'000'000, 900'000'000}) {
      SCOPED_TRACE(fmt::format("{} in {}", text, memory));
      const int64_t ctx = plan.longest_ctx(memory, 2);
      ASSERT_GT(ctx, 0);
      EXPECT_LE(plan.need(ctx, 2).total(), memory);
      EXPECT_GT(plan.need(ctx + 1, 2).total(), memory);
      const int64_t batch = plan.largest_batch(memory, 100);
      ASSERT_GT(batch, 0);
      EXPECT_LE(plan.need(100, batch).total(), memory);
      EXPECT_GT(plan.need(100, batch + 1).total(), memory);
    }
    EXPECT_EQ(plan.longest_ctx(kWeights, 1), 0);
    EXPECT_EQ(plan.largest_batch(kWeights, 1), 0);
    EXPECT_EQ(plan.longest_ctx(INT64_MAX, 1), kMaxTokens);
    EXPECT_EQ(plan.largest_batch(INT64_MAX, 1), kMaxPlannedBatch);
  }
}

// Pages come and go with windows: what a sequence takes is not what a longer one does, at most.
TEST(MemoryPlan, CountsWhatWindowsHold) {
  ModelConfig config = config_of(3, 2, 64);
  config.layers.resize(3);
  config.layers[0].window = 100;
  config.layers[2].window = 260;
  for (const char* text : {"16", "8", "kivi-2:r32+i1"}) {
    const MemoryPlan plan(parse_recipe(text), config, 0);
    const MemoryPlan full(parse_recipe(text), config_of(3, 2, 64), 0);
    for (const int64_t tokens : {1, 99, 100, 128, 129, 260, 498, 1500}) {
      SCOPED_TRACE(fmt::format("{} at {}", text, tokens));
      EXPECT_EQ(plan.need(tokens, 2).kv.total(), allocated(plan.recipe(), tokens, 2).in_use());
    }
    EXPECT_LT(plan.need(1500, 1).kv.pages, full.need(1500, 1).kv.pages);
    const int64_t memory = plan.need(1500, 1).total();
    const int64_t ctx = plan.longest_ctx(memory, 1);
    ASSERT_GT(ctx, 0);
    for (int64_t length = 0; length <= ctx; ++length) {
      ASSERT_LE(plan.need(length, 1).total(), memory) << text << " " << length;
    }
  }
}

TEST(MemoryPlan, CountsNoMoreThanItCan) {
  ModelConfig config = config_of(1024, 1024, 1024);
  config.hidden_size = 1024;
  config.intermediate_size = 1024;
  const MemoryPlan plan(parse_recipe("32"), config, 0);
  const auto complaint = [&](int64_t ctx, int64_t batch) -> std::string {
    try {
      plan.need(ctx, batch);
    } catch (const Error& error) {
      return std::string(error_code_name(error.code())) + ": " + error.what();
    }
    return "(no error)";
  };
  EXPECT_EQ(complaint(kMaxTokens, 1), "(no error)");
  EXPECT_THAT(complaint(kMaxTokens, 1000), HasSubstr("invalid_argument: 1000 sequences of "));
  EXPECT_THAT(complaint(kMaxTokens + 1, 1), HasSubstr("a context has 0 to 268435456"));
  EXPECT_EQ(complaint(1, 2'000'000), "invalid_argument: a batch of 2000000: 1 to 1048576");
  EXPECT_EQ(plan.largest_batch(INT64_MAX, kMaxTokens), 1);
}

// What the published files hold (the safetensors metadata of each repository).
TEST(Architectures, ParametersAreThoseOfThePublishedFiles) {
  const std::map<std::string, int64_t> published = {
      {"Llama-1-7B", 6'738'415'616},        {"Llama-1-13B", 13'015'864'320},
      {"Llama-1-30B", 32'528'943'616},      {"Llama-1-65B", 65'285'660'672},
      {"Llama-2-7B", 6'738'415'616},        {"Llama-2-13B", 13'015'864'320},
      {"Llama-2-70B", 68'976'648'192},      {"Vicuna-v1.5-7B", 6'738'415'616},
      {"Vicuna-v1.5-13B", 13'015'864'320},  {"Llama-3-8B", 8'030'261'248},
      {"Llama-3-70B", 70'553'706'496},      {"Llama-3.1-8B", 8'030'261'248},
      {"Llama-3.1-70B", 70'553'706'496},    {"Llama-3.1-405B", 405'853'388'800},
      {"Llama-3.2-1B", 1'235'814'400},      {"Llama-3.2-3B", 3'212'749'824},
      {"Llama-3.3-70B", 70'553'706'496},    {"SmolLM2-135M", 134'515'008},
      {"SmolLM2-360M", 361'821'120},        {"SmolLM2-1.7B", 1'711'376'384},
      {"TinyLlama-1.1B", 1'100'048'384},    {"SmolLM3-3B", 3'075'098'624},
      {"Mistral-7B-v0.1", 7'241'732'096},   {"Mistral-7B-v0.3", 7'248'023'552},
      {"Mistral-Nemo-12B", 12'247'782'400}, {"Mixtral-8x7B", 46'702'792'704},
      {"Mixtral-8x22B", 140'620'634'112},   {"Falcon-7B", 6'921'720'704},
      {"Falcon-40B", 41'303'293'952},       {"OPT-125M", 125'239'296},
      {"OPT-6.7B", 6'658'473'984},          {"OPT-13B", 12'853'473'280},
      {"Qwen2.5-0.5B", 494'032'768},        {"Qwen2.5-1.5B", 1'543'714'304},
      {"Qwen2.5-3B", 3'085'938'688},        {"Qwen2.5-7B", 7'615'616'512},
      {"Qwen2.5-14B", 14'770'033'664},      {"Qwen2.5-32B", 32'763'876'352},
      {"Qwen2.5-72B", 72'706'203'648},      {"Qwen3-0.6B", 596'049'920},
      {"Qwen3-1.7B", 1'720'574'976},        {"Qwen3-4B", 4'022'468'096},
      {"Qwen3-8B", 8'190'735'360},          {"Qwen3-14B", 14'768'307'200},
      {"Qwen3-32B", 32'762'123'264},        {"Qwen3-30B-A3B", 30'532'122'624},
      {"Qwen3-235B-A22B", 235'093'634'560}, {"Gemma-2B", 2'506'172'416},
      {"Gemma-7B", 8'537'680'896},          {"Gemma-2-2B", 2'614'341'888},
      {"Gemma-2-9B", 9'241'705'984},        {"Gemma-2-27B", 27'227'128'320},
      {"Gemma-3-270M", 268'098'176},        {"Gemma-3-1B", 999'885'952},
      {"Gemma-3-4B", 3'880'263'168},        {"Gemma-3-12B", 11'766'034'176},
      {"Gemma-3-27B", 27'009'346'304},      {"Phi-3-mini-4k", 3'821'079'552},
      {"Phi-3-medium-4k", 13'960'238'080},
  };
  for (const Architecture& arch : architectures()) {
    const auto found = published.find(std::string(arch.name));
    ASSERT_NE(found, published.end()) << arch.name;
    EXPECT_EQ(parameter_count(arch.config()), found->second) << arch.name;
  }
  EXPECT_EQ(architectures().size(), published.size());
}

TEST(Architectures, AreFoundWhateverTheCase) {
  EXPECT_EQ(find_architecture("LLAMA-3.1-8b")->name, "Llama-3.1-8B");
  EXPECT_FALSE(find_architecture("Llama-3.1"));
}

class PlanTest : public testing::Test {
 protected:
  PlanTest() {
    tiny_.write_gguf(folder_ / "tiny.gguf");
    tiny_.write_hugging_face(folder_ / "hf");
  }
  std::string path(const char* name) const { return (folder_ / name).string(); }

  static std::string text(PlanOptions options) { return plan(options, Terminal{}); }
  static json as_json(PlanOptions options) {
    options.json = true;
    return json::parse(plan(options, Terminal{}));
  }
  static std::string refusal(const PlanOptions& options) {
    try {
      plan(options, Terminal{});
    } catch (const Error& error) {
      return std::string(error_code_name(error.code())) + ": " + error.what();
    }
    return "(no error)";
  }
  PlanOptions file(const char* name) const {
    PlanOptions options;
    options.model = path(name);
    return options;
  }
  static PlanOptions arch(const char* name) {
    PlanOptions options;
    options.arch = name;
    return options;
  }

  test::TempDir folder_;
  test::TinyModel tiny_{{.layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16}};
};

TEST_F(PlanTest, FilesByHand) {
  PlanOptions options = file("tiny.gguf");
  options.kv = {"16", "4"};
  options.ctx = 256;
  options.batch = 3;
  const json plan = as_json(options);
  EXPECT_EQ(plan["kind"], "plan");
  EXPECT_EQ(plan["ctx"], 256);
  EXPECT_EQ(plan["batch"], 3);
  const json& plain = plan["plans"][0];
  // 3 sequences of 2 layers x 2 heads x 2 pages: two sides of 128 x 16 f16.
  EXPECT_EQ(plain["kv_bytes"], 3 * 8 * 2 * 4096);
  EXPECT_EQ(plain["kv_bytes_per_token"], 256);
  EXPECT_EQ(plain["weight_bytes"], ModelFile::open(path("tiny.gguf")).weight_bytes());
  EXPECT_EQ(plain["total_bytes"].get<int64_t>(), plain["kv_bytes"].get<int64_t>() +
                                                     plain["weight_bytes"].get<int64_t>() +
                                                     plain["workspace_bytes"].get<int64_t>());
  EXPECT_EQ(plain["ratio_to_16bit"], 1);
  const json& packed = plan["plans"][1];
  EXPECT_EQ(packed["kv_bytes"], 3 * 8 * 2 * 1536);
  EXPECT_EQ(packed["code_bits"], 4);
  EXPECT_EQ(packed["stored_bits"], 6);
  EXPECT_DOUBLE_EQ(packed["ratio_to_16bit"],
                   plain["total_bytes"].get<double>() / packed["total_bytes"].get<double>());
  EXPECT_TRUE(plan["memory_bytes"].is_null());
  EXPECT_FALSE(packed.contains("longest_ctx"));
}

TEST_F(PlanTest, FoldersToo) {
  const json gguf = as_json(file("tiny.gguf")), folder = as_json(file("hf"));
  EXPECT_EQ(gguf["plans"][0]["kv_bytes"], folder["plans"][0]["kv_bytes"]);
  EXPECT_EQ(gguf["ctx"], 512);  // the model's own: less than the usual 4096
}

// head_dim 16: KIVI's groups of 32 channels do not divide it.
TEST_F(PlanTest, UsualRecipesThatDoNotFitAreLeftOutAskedOnesRefused) {
  std::vector<std::string> names;
  const json plans = as_json(file("tiny.gguf"))["plans"];
  for (const json& plan : plans) names.push_back(plan["recipe"]);
  EXPECT_THAT(names, testing::ElementsAre("16", "8", "4"));
  PlanOptions options = file("tiny.gguf");
  options.kv = {"kivi-4"};
  EXPECT_THAT(refusal(options), HasSubstr("invalid_argument: recipe kivi-4: layers *, values"));
}

TEST_F(PlanTest, WellKnownModels) {
  PlanOptions options = arch("llama-2-7b");
  EXPECT_THAT(text(options),
              AllOf(HasSubstr("Llama-2-7B (public configuration)\n"),
                    ContainsRegex("heads +32 query, 32 KV, head_dim 128\n"),
                    HasSubstr("12.6 GiB (6,738,415,616 parameters of 16 bits)"),
                    HasSubstr("Memory at 4,096 tokens\n"),
                    ContainsRegex("\n16 +16.00 +16.00 +524,288 +2.00 GiB "),
                    ContainsRegex("\nkivi-2 +2.00 +3.50 "), Not(HasSubstr("max ctx"))));
  options.weight_bits = 4.5;
  EXPECT_EQ(as_json(options)["plans"][0]["weight_bytes"], 6'738'415'616 * 9 / 16);
}

TEST_F(PlanTest, WhatFitsAMemory) {
  PlanOptions options = arch("Llama-3.1-8B");
  options.memory = int64_t{24} << 30;
  options.kv = {"16", "kivi-2:r32"};
  const json plan = as_json(options);
  for (const json& row : plan["plans"]) {
    EXPECT_GT(row["longest_ctx"], 4096);
    EXPECT_GT(row["largest_batch"], 1);
  }
  EXPECT_GT(plan["plans"][1]["longest_ctx"], plan["plans"][0]["longest_ctx"]);
  options.memory = int64_t{8} << 30;  // less than the weights
  EXPECT_THAT(text(options), AllOf(HasSubstr("Memory at 4,096 tokens, and what fits 8.00 GiB\n"),
                                   ContainsRegex("16 .*x +- +-\n")));
}

TEST_F(PlanTest, TablesStayWithinTheirWidthAndLongRecipesBelow) {
  PlanOptions options = arch("Llama-3.1-405B");
  options.kv = {"16", "kivi-2:r32:block+i4", "0-3=8,4-40=kivi-4:r32,*=kivi-2:r32"};
  options.ctx = 131072;
  options.batch = 1000000;
  options.memory = int64_t{1} << 60;
  const std::string out = text(options);
  std::istringstream lines(out);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
  EXPECT_THAT(out, AllOf(HasSubstr("\n(a) kivi-2:r32:block+i4\n"),
                         HasSubstr("\n(b) 0-3=8,4-40=kivi-4:r32,*=kivi-2:r32\n")));
}

TEST_F(PlanTest, ContextsBeyondTheModelsAreSaid) {
  PlanOptions options = arch("Llama-2-7B");
  options.ctx = 8192;
  EXPECT_THAT(text(options), HasSubstr("8,192 tokens are beyond the model's context.\n"));
}

TEST_F(PlanTest, ListsTheModelsItKnows) {
  EXPECT_THAT(
      text(arch("list")),
      ContainsRegex("Llama-2-7B +32 +32 x 128 +32 +4,096 +6,738,415,616 +524,288 +16.00 +3"));
  EXPECT_EQ(as_json(arch("list")).size(), architectures().size());
}

TEST_F(PlanTest, ErrorsSayWhatToDo) {
  EXPECT_EQ(refusal(arch("gpt-5")),
            "invalid_argument: --arch: no 'gpt-5' here: lowkey plan --arch list shows all");
  EXPECT_THAT(refusal(file("nothing.gguf")), HasSubstr("not_found: "));
  PlanOptions options = arch("Llama-2-7B");
  options.kv = {"7"};
  EXPECT_THAT(refusal(options), HasSubstr("invalid_argument: "));
}

// Beside attention's matrices: three of the dense layer, two experts' three in the other.
TEST(PromptWeights, CountExpertsOfTheLayersThatHaveThem) {
  ModelConfig config;
  config.num_layers = 2;
  config.hidden_size = 10;
  config.intermediate_size = 7;
  config.num_qo_heads = 3;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  const int64_t attention = 2 * 10 * (2 * 3 + 2 * 1) * 4;  // of both layers
  EXPECT_EQ(prompt_weights_bytes(config), 2 * (attention + 2 * 3 * 10 * 7));
  config.layers.resize(2);
  config.layers[1].experts = true;
  config.num_experts = 2;
  config.expert_intermediate_size = 5;
  EXPECT_EQ(prompt_weights_bytes(config), 2 * (attention + 3 * 10 * 7 + 2 * 3 * 10 * 5));
  config.gated_mlp = false;
  EXPECT_EQ(prompt_weights_bytes(config), 2 * (attention + 2 * 10 * 7 + 2 * 2 * 10 * 5));
}

}  // namespace
}  // namespace lowkey
