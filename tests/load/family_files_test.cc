// A layer of each family from its own names, in both formats: every weight is the rows of the file
// it should be.
#include "load/family_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "core/error.h"
#include "load/model_file.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using nlohmann::json;
using test::family_gguf;
using test::GgufWriter;
using test::ListedTensor;
using test::TempDir;
using test::write_family_folder;
using test::write_family_weights;
using ::testing::HasSubstr;

using Rows = std::vector<int64_t>;

Rows rows(int64_t begin, int64_t end) {
  Rows list;
  for (int64_t row = begin; row < end; ++row) list.push_back(row);
  return list;
}

Rows operator+(Rows left, const Rows& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// A weight, the tensor that holds it, and which of its rows (of a vector: elements), in lowkey's
// order; none: all.
struct Held {
  std::string canonical;
  std::string in_file;
  Rows rows = {};
};

std::vector<float> values_of(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.rows() * tensor.cols()));
  dequantize_rows(tensor, 0, tensor.rows(), values.data());
  return values;
}

void expect_weights(const ModelFile& model, const std::vector<ListedTensor>& tensors,
                    const std::vector<Held>& held) {
  std::map<std::string, const ListedTensor*> by_name;
  uint64_t bytes = 0;
  for (const ListedTensor& tensor : tensors) by_name[tensor.name] = &tensor;
  std::map<std::string, bool> used;
  for (const Held& weight : held) {
    ASSERT_TRUE(by_name.contains(weight.in_file)) << weight.in_file;
    const ListedTensor& tensor = *by_name[weight.in_file];
    if (used.emplace(weight.in_file, true).second)
      bytes += 4 * static_cast<uint64_t>(tensor.count());
    const int64_t cols = tensor.shape.size() == 1 ? 1 : tensor.shape.back();
    std::vector<float> expected;
    for (int64_t row : weight.rows.empty() ? rows(0, tensor.count() / cols) : weight.rows) {
      for (int64_t col = 0; col < cols; ++col)
        expected.push_back(tensor.first + static_cast<float>(row * cols + col));
    }
    const TensorView& view = model.tensor(weight.canonical);
    EXPECT_EQ(values_of(view), expected) << weight.canonical;
    EXPECT_EQ(view.name, weight.in_file);
    // Row by row, as linear/ reads a matrix.
    if (view.shape.size() != 2) continue;
    std::vector<float> one(static_cast<size_t>(cols));
    for (int64_t row = 0; row < view.rows(); ++row) {
      ASSERT_LE((view.stored_row(row) + 1) * view.row_bytes(),
                static_cast<int64_t>(view.data.size()));
      dequantize(view.dtype, view.data.data() + view.stored_row(row) * view.row_bytes(), cols,
                 one.data());
      EXPECT_EQ(one[0], expected[static_cast<size_t>(row * cols)]) << weight.canonical;
    }
  }
  EXPECT_EQ(model.tensor_names().size(), held.size());
  EXPECT_EQ(model.weight_bytes(), bytes) << "each byte of the file once";
}

std::vector<ListedTensor> numbered(std::vector<ListedTensor> tensors) {
  for (size_t i = 0; i < tensors.size(); ++i) tensors[i].first = 20000.0f * static_cast<float>(i);
  return tensors;
}

std::string refusal(const std::filesystem::path& path) {
  try {
    ModelFile::open(path);
  } catch (const Error& error) {
    return std::string(error_code_name(error.code())) + ": " + error.what();
  }
  return "";
}

void check_folder(const json& config, const std::vector<ListedTensor>& tensors,
                  const std::vector<Held>& held) {
  const TempDir dir;
  write_family_folder(dir / "hf", config, tensors);
  ASSERT_EQ(refusal(dir / "hf"), "");
  expect_weights(ModelFile::open(dir / "hf"), tensors, held);
  // Each of them is needed.
  for (const Held& weight : held) {
    std::vector<ListedTensor> fewer = tensors;
    std::erase_if(fewer, [&](const ListedTensor& tensor) { return tensor.name == weight.in_file; });
    write_family_weights(dir / "hf", fewer);
    EXPECT_THAT(refusal(dir / "hf"), HasSubstr("is missing")) << weight.in_file;
  }
  std::vector<ListedTensor> more = tensors;
  more.push_back({"model.layers.0.self_attn.sinks", {4}});
  write_family_weights(dir / "hf", more);
  EXPECT_THAT(refusal(dir / "hf"),
              HasSubstr("tensor 'model.layers.0.self_attn.sinks' is no part of the"));
}

ModelConfig check_gguf(const GgufWriter& writer, const std::vector<ListedTensor>& tensors,
                       const std::vector<Held>& held) {
  const TempDir dir;
  writer.write(dir / "x.gguf");
  EXPECT_EQ(refusal(dir / "x.gguf"), "");
  const ModelFile model = ModelFile::open(dir / "x.gguf");
  expect_weights(model, tensors, held);
  return model.config();
}

void add_sizes(GgufWriter& w, const std::string& arch, uint32_t hidden, uint32_t ffn,
               uint32_t heads, uint32_t kv_heads, uint32_t layers = 1) {
  w.add(arch + ".block_count", layers).add(arch + ".context_length", 128u);
  w.add(arch + ".embedding_length", hidden).add(arch + ".feed_forward_length", ffn);
  w.add(arch + ".attention.head_count", heads).add(arch + ".attention.head_count_kv", kv_heads);
  const char* eps =
      arch == "falcon" ? ".attention.layer_norm_epsilon" : ".attention.layer_norm_rms_epsilon";
  w.add(arch + eps, 1e-5f);
}

// 4 query heads in 2 groups, head_dim 8: [q q k v] twice.
const Rows kGroupedQ = rows(0, 16) + rows(32, 48);
const Rows kGroupedK = rows(16, 24) + rows(48, 56);
const Rows kGroupedV = rows(24, 32) + rows(56, 64);

TEST(FamilyFiles, FalconGroupedFromHuggingFace) {
  const json config = json::parse(R"({"architectures": ["FalconForCausalLM"], "bias": true,
    "hidden_size": 32, "new_decoder_architecture": true, "num_attention_heads": 4,
    "num_hidden_layers": 1, "num_kv_heads": 2, "vocab_size": 320})");
  const std::string layer = "transformer.h.0.";
  const std::string qkv = layer + "self_attention.query_key_value";
  const auto tensors = numbered({{"transformer.word_embeddings.weight", {320, 32}},
                                 {layer + "ln_attn.weight", {32}},
                                 {layer + "ln_attn.bias", {32}},
                                 {layer + "ln_mlp.weight", {32}},
                                 {layer + "ln_mlp.bias", {32}},
                                 {qkv + ".weight", {64, 32}},
                                 {qkv + ".bias", {64}},
                                 {layer + "self_attention.dense.weight", {32, 32}},
                                 {layer + "self_attention.dense.bias", {32}},
                                 {layer + "mlp.dense_h_to_4h.weight", {128, 32}},
                                 {layer + "mlp.dense_h_to_4h.bias", {128}},
                                 {layer + "mlp.dense_4h_to_h.weight", {32, 128}},
                                 {layer + "mlp.dense_4h_to_h.bias", {32}},
                                 {"transformer.ln_f.weight", {32}},
                                 {"transformer.ln_f.bias", {32}}});
  const std::vector<Held> held{{"embed.weight", "transformer.word_embeddings.weight"},
                               {"layers.0.attn_norm.weight", layer + "ln_attn.weight"},
                               {"layers.0.attn_norm.bias", layer + "ln_attn.bias"},
                               {"layers.0.mlp_norm.weight", layer + "ln_mlp.weight"},
                               {"layers.0.mlp_norm.bias", layer + "ln_mlp.bias"},
                               {"layers.0.q.weight", qkv + ".weight", kGroupedQ},
                               {"layers.0.q.bias", qkv + ".bias", kGroupedQ},
                               {"layers.0.k.weight", qkv + ".weight", kGroupedK},
                               {"layers.0.k.bias", qkv + ".bias", kGroupedK},
                               {"layers.0.v.weight", qkv + ".weight", kGroupedV},
                               {"layers.0.v.bias", qkv + ".bias", kGroupedV},
                               {"layers.0.o.weight", layer + "self_attention.dense.weight"},
                               {"layers.0.o.bias", layer + "self_attention.dense.bias"},
                               {"layers.0.up.weight", layer + "mlp.dense_h_to_4h.weight"},
                               {"layers.0.up.bias", layer + "mlp.dense_h_to_4h.bias"},
                               {"layers.0.down.weight", layer + "mlp.dense_4h_to_h.weight"},
                               {"layers.0.down.bias", layer + "mlp.dense_4h_to_h.bias"},
                               {"final_norm.weight", "transformer.ln_f.weight"},
                               {"final_norm.bias", "transformer.ln_f.bias"}};
  check_folder(config, tensors, held);
  const TempDir dir;
  write_family_folder(dir / "hf", config, tensors);
  EXPECT_EQ(ModelFile::open(dir / "hf").tensor("layers.0.k.weight").row_order, RowOrder::kStrided);
  json wrong = config;
  wrong["num_kv_heads"] = 4;
  write_family_folder(dir / "hf", wrong, tensors);
  EXPECT_THAT(refusal(dir / "hf"), HasSubstr("query_key_value.weight' has shape [64, 32], but the "
                                             "configuration asks for [96, 32]"));
}

TEST(FamilyFiles, FalconMultiQueryAndRwFromHuggingFace) {
  const std::string layer = "transformer.h.0.";
  const std::string qkv = layer + "self_attention.query_key_value.weight";
  json config = json::parse(R"({"architectures": ["FalconForCausalLM"], "hidden_size": 32,
    "num_attention_heads": 4, "num_hidden_layers": 1, "num_kv_heads": 4, "vocab_size": 320})");
  std::vector<ListedTensor> tensors{{"transformer.word_embeddings.weight", {320, 32}},
                                    {layer + "input_layernorm.weight", {32}},
                                    {layer + "input_layernorm.bias", {32}},
                                    {qkv, {48, 32}},
                                    {layer + "self_attention.dense.weight", {32, 32}},
                                    {layer + "mlp.dense_h_to_4h.weight", {128, 32}},
                                    {layer + "mlp.dense_4h_to_h.weight", {32, 128}},
                                    {"transformer.ln_f.weight", {32}},
                                    {"transformer.ln_f.bias", {32}}};
  std::vector<Held> held{{"embed.weight", "transformer.word_embeddings.weight"},
                         {"layers.0.attn_norm.weight", layer + "input_layernorm.weight"},
                         {"layers.0.attn_norm.bias", layer + "input_layernorm.bias"},
                         {"layers.0.q.weight", qkv, rows(0, 32)},
                         {"layers.0.k.weight", qkv, rows(32, 40)},
                         {"layers.0.v.weight", qkv, rows(40, 48)},
                         {"layers.0.o.weight", layer + "self_attention.dense.weight"},
                         {"layers.0.up.weight", layer + "mlp.dense_h_to_4h.weight"},
                         {"layers.0.down.weight", layer + "mlp.dense_4h_to_h.weight"},
                         {"final_norm.weight", "transformer.ln_f.weight"},
                         {"final_norm.bias", "transformer.ln_f.bias"}};
  check_folder(config, numbered(tensors), held);

  // Each head's query, key and value after each other; two norms, one after the other.
  config["multi_query"] = false, config["parallel_attn"] = false, config["alibi"] = true;
  tensors[3].shape = {96, 32};
  tensors.push_back({layer + "post_attention_layernorm.weight", {32}});
  tensors.push_back({layer + "post_attention_layernorm.bias", {32}});
  held.push_back({"layers.0.mlp_norm.weight", layer + "post_attention_layernorm.weight"});
  held.push_back({"layers.0.mlp_norm.bias", layer + "post_attention_layernorm.bias"});
  for (int part = 0; part < 3; ++part) {
    Rows& of_part = held[3 + static_cast<size_t>(part)].rows;
    of_part.clear();
    for (int64_t head = 0; head < 4; ++head)
      of_part = of_part + rows(24 * head + 8 * part, 24 * head + 8 * part + 8);
  }
  check_folder(config, numbered(tensors), held);
}

TEST(FamilyFiles, FalconFromGguf) {
  auto tensors = numbered({{"token_embd.weight", {320, 32}},
                           {"blk.0.attn_norm.weight", {32}},
                           {"blk.0.attn_norm.bias", {32}},
                           {"blk.0.attn_norm_2.weight", {32}},
                           {"blk.0.attn_norm_2.bias", {32}},
                           {"blk.0.attn_qkv.weight", {64, 32}},
                           {"blk.0.attn_output.weight", {32, 32}},
                           {"blk.0.ffn_up.weight", {128, 32}},
                           {"blk.0.ffn_down.weight", {32, 128}},
                           {"output_norm.weight", {32}},
                           {"output_norm.bias", {32}}});
  GgufWriter w = family_gguf("falcon", tensors);
  add_sizes(w, "falcon", 32, 128, 4, 2);
  const ModelConfig c = check_gguf(w, tensors,
                                   {{"embed.weight", "token_embd.weight"},
                                    {"layers.0.attn_norm.weight", "blk.0.attn_norm_2.weight"},
                                    {"layers.0.attn_norm.bias", "blk.0.attn_norm_2.bias"},
                                    {"layers.0.mlp_norm.weight", "blk.0.attn_norm.weight"},
                                    {"layers.0.mlp_norm.bias", "blk.0.attn_norm.bias"},
                                    {"layers.0.q.weight", "blk.0.attn_qkv.weight", rows(0, 32)},
                                    {"layers.0.k.weight", "blk.0.attn_qkv.weight", rows(32, 48)},
                                    {"layers.0.v.weight", "blk.0.attn_qkv.weight", rows(48, 64)},
                                    {"layers.0.o.weight", "blk.0.attn_output.weight"},
                                    {"layers.0.up.weight", "blk.0.ffn_up.weight"},
                                    {"layers.0.down.weight", "blk.0.ffn_down.weight"},
                                    {"final_norm.weight", "output_norm.weight"},
                                    {"final_norm.bias", "output_norm.bias"}});
  EXPECT_EQ(c.architecture, "falcon");
  EXPECT_TRUE(c.parallel && c.norm_bias && c.tied_embeddings);
  EXPECT_FALSE(c.shared_norm || c.gated_mlp);
  EXPECT_EQ(c.norm, NormKind::kLayer);
}

TEST(FamilyFiles, OptFromHuggingFace) {
  const json config = json::parse(R"({"architectures": ["OPTForCausalLM"], "ffn_dim": 48,
    "hidden_size": 32, "max_position_embeddings": 16, "num_attention_heads": 4,
    "num_hidden_layers": 1, "vocab_size": 320})");
  const auto names = [](const std::string& prefix) {
    std::vector<ListedTensor> tensors{{prefix + "embed_tokens.weight", {320, 32}},
                                      {prefix + "embed_positions.weight", {18, 32}},
                                      {prefix + "final_layer_norm.weight", {32}},
                                      {prefix + "final_layer_norm.bias", {32}}};
    std::vector<Held> held{{"embed.weight", tensors[0].name},
                           {"positions.weight", tensors[1].name},
                           {"final_norm.weight", tensors[2].name},
                           {"final_norm.bias", tensors[3].name}};
    const auto add = [&](const std::string& canonical, const std::string& name,
                         std::vector<int64_t> shape) {
      const std::string in_file = prefix + "layers.0." + name;
      tensors.push_back({in_file + ".weight", shape});
      tensors.push_back({in_file + ".bias", {shape.front()}});
      held.push_back({"layers.0." + canonical + ".weight", in_file + ".weight"});
      held.push_back({"layers.0." + canonical + ".bias", in_file + ".bias"});
    };
    add("attn_norm", "self_attn_layer_norm", {32});
    for (const char* part : {"q", "k", "v"})
      add(part, std::string("self_attn.") + part + "_proj", {32, 32});
    add("o", "self_attn.out_proj", {32, 32});
    add("mlp_norm", "final_layer_norm", {32});
    add("up", "fc1", {48, 32});
    add("down", "fc2", {32, 48});
    return std::pair(numbered(tensors), held);
  };
  for (const char* prefix : {"model.decoder.", "decoder."}) {
    const auto [tensors, held] = names(prefix);
    check_folder(config, tensors, held);
  }
}

TEST(FamilyFiles, Phi3FusesProjections) {
  const json config = json::parse(R"({"architectures": ["Phi3ForCausalLM"], "hidden_size": 32,
    "intermediate_size": 24, "max_position_embeddings": 128, "num_attention_heads": 4,
    "num_hidden_layers": 1, "num_key_value_heads": 2, "vocab_size": 320})");
  const std::string layer = "model.layers.0.";
  const auto held = [](const std::vector<ListedTensor>& t) {
    return std::vector<Held>{{"embed.weight", t[0].name},
                             {"layers.0.attn_norm.weight", t[1].name},
                             {"layers.0.q.weight", t[2].name, rows(0, 32)},
                             {"layers.0.k.weight", t[2].name, rows(32, 48)},
                             {"layers.0.v.weight", t[2].name, rows(48, 64)},
                             {"layers.0.o.weight", t[3].name},
                             {"layers.0.mlp_norm.weight", t[4].name},
                             {"layers.0.gate.weight", t[5].name, rows(0, 24)},
                             {"layers.0.up.weight", t[5].name, rows(24, 48)},
                             {"layers.0.down.weight", t[6].name},
                             {"final_norm.weight", t[7].name},
                             {"head.weight", t[8].name}};
  };
  const auto hf = numbered({{"model.embed_tokens.weight", {320, 32}},
                            {layer + "input_layernorm.weight", {32}},
                            {layer + "self_attn.qkv_proj.weight", {64, 32}},
                            {layer + "self_attn.o_proj.weight", {32, 32}},
                            {layer + "post_attention_layernorm.weight", {32}},
                            {layer + "mlp.gate_up_proj.weight", {48, 32}},
                            {layer + "mlp.down_proj.weight", {32, 24}},
                            {"model.norm.weight", {32}},
                            {"lm_head.weight", {320, 32}}});
  check_folder(config, hf, held(hf));

  const auto gguf = numbered({{"token_embd.weight", {320, 32}},
                              {"blk.0.attn_norm.weight", {32}},
                              {"blk.0.attn_qkv.weight", {64, 32}},
                              {"blk.0.attn_output.weight", {32, 32}},
                              {"blk.0.ffn_norm.weight", {32}},
                              {"blk.0.ffn_up.weight", {48, 32}},
                              {"blk.0.ffn_down.weight", {32, 24}},
                              {"output_norm.weight", {32}},
                              {"output.weight", {320, 32}}});
  GgufWriter w = family_gguf("phi3", gguf);
  add_sizes(w, "phi3", 32, 24, 4, 2);
  w.add("phi3.attention.sliding_window", 40u).add("phi3.rope.dimension_count", 6u);
  w.add("phi3.rope.scaling.original_context_length", 64u);
  const ModelConfig plain = check_gguf(w, gguf, held(gguf));
  EXPECT_EQ(plain.layers[0].window, 40);
  EXPECT_EQ(plain.rope.dim, 6);
  EXPECT_EQ(plain.max_context, 128) << "the original context counts with factors only";
  EXPECT_EQ(plain.tied_embeddings, false);

  w.add("phi3.rope.scaling.attn_factor", 1.25f);
  w.add_tensor("rope_factors_long.weight", DType::kF32, {3}, std::string(12, '\x40'));
  const TempDir dir;
  w.write(dir / "x.gguf");
  EXPECT_THAT(refusal(dir / "x.gguf"), HasSubstr("'rope_factors_short.weight' is missing"));
  w.add_tensor("rope_factors_short.weight", DType::kF32, {3}, std::string(12, '\x3f'));
  const ModelConfig scaled = check_gguf(w, gguf, held(gguf));
  EXPECT_EQ(scaled.rope.freq_divisors.size(), 3u);
  EXPECT_EQ(scaled.rope.attention_factor, 1.25);
  EXPECT_EQ(scaled.max_context, 64);
}

// Row i of lowkey's order is the file's row i with each head interleaved: 0, 4, 1, 5, 2, 6, 3, 7.
Rows interleaved(int64_t heads) {
  Rows list;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t row : {0, 2, 4, 6, 1, 3, 5, 7}) list.push_back(8 * head + row);
  }
  return list;
}

TEST(FamilyFiles, MixtralsExperts) {
  const json config = json::parse(R"({"architectures": ["MixtralForCausalLM"], "hidden_size": 32,
    "intermediate_size": 24, "max_position_embeddings": 128, "num_attention_heads": 4,
    "num_hidden_layers": 1, "num_key_value_heads": 2, "num_local_experts": 3, "vocab_size": 320})");
  const std::string layer = "model.layers.0.";
  std::vector<ListedTensor> tensors{{"model.embed_tokens.weight", {320, 32}},
                                    {layer + "input_layernorm.weight", {32}},
                                    {layer + "self_attn.q_proj.weight", {32, 32}},
                                    {layer + "self_attn.k_proj.weight", {16, 32}},
                                    {layer + "self_attn.v_proj.weight", {16, 32}},
                                    {layer + "self_attn.o_proj.weight", {32, 32}},
                                    {layer + "post_attention_layernorm.weight", {32}},
                                    {layer + "block_sparse_moe.gate.weight", {3, 32}},
                                    {"model.norm.weight", {32}},
                                    {"lm_head.weight", {320, 32}}};
  const char* canonical[] = {"embed.weight",
                             "layers.0.attn_norm.weight",
                             "layers.0.q.weight",
                             "layers.0.k.weight",
                             "layers.0.v.weight",
                             "layers.0.o.weight",
                             "layers.0.mlp_norm.weight",
                             "layers.0.router.weight",
                             "final_norm.weight",
                             "head.weight"};
  std::vector<Held> held;
  for (size_t i = 0; i < tensors.size(); ++i) held.push_back({canonical[i], tensors[i].name});
  for (int expert = 0; expert < 3; ++expert) {
    const std::string to = "layers.0.experts." + std::to_string(expert) + ".";
    const std::string from = layer + "block_sparse_moe.experts." + std::to_string(expert) + ".";
    tensors.push_back({from + "w1.weight", {24, 32}});
    tensors.push_back({from + "w2.weight", {32, 24}});
    tensors.push_back({from + "w3.weight", {24, 32}});
    held.push_back({to + "gate.weight", from + "w1.weight"});
    held.push_back({to + "down.weight", from + "w2.weight"});
    held.push_back({to + "up.weight", from + "w3.weight"});
  }
  check_folder(config, numbered(tensors), held);

  const auto gguf = numbered({{"token_embd.weight", {320, 32}},
                              {"blk.0.attn_norm.weight", {32}},
                              {"blk.0.attn_q.weight", {32, 32}},
                              {"blk.0.attn_k.weight", {16, 32}},
                              {"blk.0.attn_v.weight", {16, 32}},
                              {"blk.0.attn_output.weight", {32, 32}},
                              {"blk.0.ffn_norm.weight", {32}},
                              {"blk.0.ffn_gate_inp.weight", {3, 32}},
                              {"output_norm.weight", {32}},
                              {"output.weight", {320, 32}},
                              {"blk.0.ffn_gate_exps.weight", {3, 24, 32}},
                              {"blk.0.ffn_down_exps.weight", {3, 32, 24}},
                              {"blk.0.ffn_up_exps.weight", {3, 24, 32}}});
  held.clear();
  for (size_t i = 0; i < 10; ++i) held.push_back({canonical[i], gguf[i].name});
  held[2].rows = interleaved(4);
  held[3].rows = interleaved(2);
  for (int64_t expert = 0; expert < 3; ++expert) {
    const std::string to = "layers.0.experts." + std::to_string(expert) + ".";
    held.push_back({to + "gate.weight", gguf[10].name, rows(24 * expert, 24 * expert + 24)});
    held.push_back({to + "down.weight", gguf[11].name, rows(32 * expert, 32 * expert + 32)});
    held.push_back({to + "up.weight", gguf[12].name, rows(24 * expert, 24 * expert + 24)});
  }
  GgufWriter w = family_gguf("llama", gguf);
  add_sizes(w, "llama", 32, 24, 4, 2);
  w.add("llama.expert_count", 3u).add("llama.expert_used_count", 2u);
  const ModelConfig c = check_gguf(w, gguf, held);
  EXPECT_EQ(c.architecture, "mixtral");
  EXPECT_EQ(c.num_experts, 3);
  EXPECT_EQ(c.experts_per_token, 2);
  EXPECT_EQ(c.expert_intermediate_size, 24);
  EXPECT_TRUE(c.layers[0].experts);

  const TempDir dir;
  const auto said = [&](const char* key, auto value) {
    GgufWriter changed = w;
    changed.set(key, value);
    changed.write(dir / "x.gguf");
    return refusal(dir / "x.gguf");
  };
  EXPECT_THAT(said("llama.expert_count", 4u),
              HasSubstr("'blk.0.ffn_gate_inp.weight' has shape [3, 32], but the configuration asks "
                        "for [4, 32]"));
  EXPECT_THAT(said("llama.expert_gating_func", 2u),
              HasSubstr("llama.expert_gating_func: 2 is not known here (1, softmax, is)"));
  EXPECT_THAT(said("llama.expert_shared_count", 1u),
              HasSubstr("llama.expert_shared_count: is not known of this architecture"));
  EXPECT_THAT(said("llama.expert_weights_scale", 2.5f), HasSubstr("expert_weights_scale: 2.5"));
}

// Qwen3-MoE with a dense layer before: both kinds of names, and QK-norms.
TEST(FamilyFiles, Qwen3MoeMixesLayers) {
  const json config = json::parse(R"({"architectures": ["Qwen3MoeForCausalLM"], "head_dim": 8,
    "hidden_size": 32, "intermediate_size": 40, "max_position_embeddings": 128,
    "mlp_only_layers": [0], "moe_intermediate_size": 24, "num_attention_heads": 4,
    "num_experts": 2, "num_experts_per_tok": 1, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "tie_word_embeddings": true, "vocab_size": 320})");
  std::vector<ListedTensor> tensors{{"model.embed_tokens.weight", {320, 32}},
                                    {"model.norm.weight", {32}}};
  std::vector<Held> held{{"embed.weight", tensors[0].name}, {"final_norm.weight", tensors[1].name}};
  const auto add = [&](int layer, const std::string& canonical, const std::string& name,
                       std::vector<int64_t> shape) {
    tensors.push_back({"model.layers." + std::to_string(layer) + "." + name + ".weight", shape});
    held.push_back(
        {"layers." + std::to_string(layer) + "." + canonical + ".weight", tensors.back().name});
  };
  for (int layer : {0, 1}) {
    add(layer, "attn_norm", "input_layernorm", {32});
    add(layer, "mlp_norm", "post_attention_layernorm", {32});
    add(layer, "q", "self_attn.q_proj", {32, 32});
    add(layer, "k", "self_attn.k_proj", {16, 32});
    add(layer, "v", "self_attn.v_proj", {16, 32});
    add(layer, "o", "self_attn.o_proj", {32, 32});
    add(layer, "q_norm", "self_attn.q_norm", {8});
    add(layer, "k_norm", "self_attn.k_norm", {8});
  }
  add(0, "gate", "mlp.gate_proj", {40, 32});
  add(0, "up", "mlp.up_proj", {40, 32});
  add(0, "down", "mlp.down_proj", {32, 40});
  add(1, "router", "mlp.gate", {2, 32});
  for (const char* expert : {"experts.0.", "experts.1."}) {
    add(1, std::string(expert) + "gate", std::string("mlp.") + expert + "gate_proj", {24, 32});
    add(1, std::string(expert) + "up", std::string("mlp.") + expert + "up_proj", {24, 32});
    add(1, std::string(expert) + "down", std::string("mlp.") + expert + "down_proj", {32, 24});
  }
  check_folder(config, numbered(tensors), held);
}

// Two layers of Gemma, as one list of names for both formats.
struct GemmaName {
  const char* canonical;
  const char* hugging_face;
  const char* gguf;
  std::vector<int64_t> shape;
};

std::vector<GemmaName> gemma_names(bool qk_norm) {
  std::vector<GemmaName> names{
      {"attn_norm", "input_layernorm", "attn_norm", {32}},
      {"q", "self_attn.q_proj", "attn_q", {64, 32}},
      {"k", "self_attn.k_proj", "attn_k", {16, 32}},
      {"v", "self_attn.v_proj", "attn_v", {16, 32}},
      {"o", "self_attn.o_proj", "attn_output", {32, 64}},
      {"post_attn_norm", "post_attention_layernorm", "post_attention_norm", {32}},
      {"mlp_norm", "pre_feedforward_layernorm", "ffn_norm", {32}},
      {"gate", "mlp.gate_proj", "ffn_gate", {24, 32}},
      {"up", "mlp.up_proj", "ffn_up", {24, 32}},
      {"down", "mlp.down_proj", "ffn_down", {32, 24}},
      {"post_mlp_norm", "post_feedforward_layernorm", "post_ffw_norm", {32}}};
  if (!qk_norm) return names;
  names.push_back({"q_norm", "self_attn.q_norm", "attn_q_norm", {16}});
  names.push_back({"k_norm", "self_attn.k_norm", "attn_k_norm", {16}});
  return names;
}

struct Listing {
  std::vector<ListedTensor> tensors;
  std::vector<Held> held;
};

Listing gemma_listing(bool qk_norm, bool gguf, const std::string& prefix = "model.") {
  Listing list;
  list.tensors = {{gguf ? "token_embd.weight" : prefix + "embed_tokens.weight", {320, 32}},
                  {gguf ? "output_norm.weight" : prefix + "norm.weight", {32}}};
  list.held = {{"embed.weight", list.tensors[0].name}, {"final_norm.weight", list.tensors[1].name}};
  for (const char* layer : {"0.", "1."}) {
    for (const GemmaName& name : gemma_names(qk_norm)) {
      const std::string in_file = (gguf ? std::string("blk.") : prefix + "layers.") + layer +
                                  (gguf ? name.gguf : name.hugging_face) + ".weight";
      list.tensors.push_back({in_file, name.shape});
      list.held.push_back({std::string("layers.") + layer + name.canonical + ".weight", in_file});
    }
  }
  list.tensors = numbered(list.tensors);
  return list;
}

TEST(FamilyFiles, Gemma2AndGemma3) {
  json config = json::parse(R"({"architectures": ["Gemma2ForCausalLM"], "head_dim": 16,
    "hidden_size": 32, "intermediate_size": 24, "max_position_embeddings": 128,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 1,
    "sliding_window": 20, "vocab_size": 320})");
  const Listing two = gemma_listing(false, false);
  check_folder(config, two.tensors, two.held);
  config["architectures"] = {"Gemma3ForCausalLM"};
  const Listing three = gemma_listing(true, false);
  check_folder(config, three.tensors, three.held);

  // With eyes: their weights lie beside, and stay there.
  const json seeing = {{"architectures", {"Gemma3ForConditionalGeneration"}},
                       {"text_config", config},
                       {"vision_config", json::object()}};
  for (const char* prefix : {"language_model.model.", "model.language_model."}) {
    Listing list = gemma_listing(true, false, prefix);
    for (const char* other : {"vision_tower.vision_model.post_layernorm.weight",
                              "model.vision_tower.vision_model.post_layernorm.weight",
                              "multi_modal_projector.mm_soft_emb_norm.weight"}) {
      list.tensors.push_back({other, {4}});
    }
    check_folder(seeing, list.tensors, list.held);
  }

  for (const bool third : {false, true}) {
    const std::string arch = third ? "gemma3" : "gemma2";
    const Listing list = gemma_listing(third, true);
    GgufWriter w = family_gguf(arch, list.tensors);
    add_sizes(w, arch, 32, 24, 4, 1, 2);
    w.add(arch + ".attention.key_length", 16u).add(arch + ".attention.value_length", 16u);
    w.add(arch + ".attention.sliding_window", 20u);
    if (third) w.add("gemma3.rope.scaling.type", "linear").add("gemma3.rope.scaling.factor", 8.0f);
    const ModelConfig c = check_gguf(w, list.tensors, list.held);
    EXPECT_FALSE(c.norm_plus_one) << "GGUF has the whole weights";
    EXPECT_TRUE(c.post_norms && c.tied_embeddings);
    EXPECT_EQ(c.qk_norm, third);
    EXPECT_EQ(c.activation, Activation::kGeluTanh);
    EXPECT_EQ(c.layers[0].window, 20);
    EXPECT_EQ(c.layers[1].window, third ? 20 : 0) << "every sixth, every second";
    EXPECT_EQ(c.layers[0].rope, third ? RopeUse::kLocal : RopeUse::kMain);
    EXPECT_EQ(c.attention_softcap, third ? 0.0 : 50.0);
    EXPECT_EQ(c.logit_softcap, third ? 0.0 : 30.0);
    if (third) {
      EXPECT_EQ(c.rope.factor, 8.0);
      EXPECT_EQ(c.local_rope.scaling, RopeScaling::kNone);
      EXPECT_EQ(c.local_rope.base, 1e4);
    }
    const std::string pattern = arch + ".attention.sliding_window_pattern";
    GgufWriter flags = w;
    flags.add(pattern, std::vector<bool>{false, true});
    EXPECT_EQ(check_gguf(flags, list.tensors, list.held).layers[0].window, 0);
    EXPECT_EQ(check_gguf(flags, list.tensors, list.held).layers[1].window, 20);
    GgufWriter scaled = w;
    scaled.add(arch + ".attention.scale", 0.125f).add(pattern, 1u);
    EXPECT_EQ(check_gguf(scaled, list.tensors, list.held).attention_scale, 0.125);
    EXPECT_EQ(check_gguf(scaled, list.tensors, list.held).layers[0].window, 0)
        << "each is the last";
    const TempDir dir;
    GgufWriter wrong = w;
    wrong.add(pattern, std::vector<bool>{true});
    wrong.write(dir / "x.gguf");
    EXPECT_THAT(refusal(dir / "x.gguf"), HasSubstr(pattern + " has 1 entries for 2 layers"));
  }
}

// Llama's names in the other architectures of GGUF: whose rows of Q and K are interleaved, what the
// name of the architecture alone says.
TEST(FamilyFiles, PlainArchitecturesFromGguf) {
  struct Case {
    const char* arch;
    bool interleaved, qkv_bias, qk_norm;
  };
  for (const Case& c : {Case{"qwen2", false, true, false}, Case{"qwen3", false, false, true},
                        Case{"smollm3", true, false, false}, Case{"llama", true, false, false}}) {
    SCOPED_TRACE(c.arch);
    std::vector<ListedTensor> tensors{{"token_embd.weight", {320, 32}},
                                      {"output_norm.weight", {32}}};
    std::vector<Held> held{{"embed.weight", "token_embd.weight"},
                           {"final_norm.weight", "output_norm.weight"}};
    const auto add = [&](int layer, const std::string& canonical, const std::string& name,
                         std::vector<int64_t> shape, Rows order = {}) {
      tensors.push_back({"blk." + std::to_string(layer) + "." + name, shape});
      held.push_back({"layers." + std::to_string(layer) + "." + canonical, tensors.back().name,
                      std::move(order)});
    };
    for (int layer = 0; layer < 4; ++layer) {
      const Rows q = c.interleaved ? interleaved(4) : Rows{};
      const Rows k = c.interleaved ? interleaved(2) : Rows{};
      add(layer, "attn_norm.weight", "attn_norm.weight", {32});
      add(layer, "q.weight", "attn_q.weight", {32, 32}, q);
      add(layer, "k.weight", "attn_k.weight", {16, 32}, k);
      add(layer, "v.weight", "attn_v.weight", {16, 32});
      add(layer, "o.weight", "attn_output.weight", {32, 32});
      add(layer, "mlp_norm.weight", "ffn_norm.weight", {32});
      add(layer, "gate.weight", "ffn_gate.weight", {24, 32});
      add(layer, "up.weight", "ffn_up.weight", {24, 32});
      add(layer, "down.weight", "ffn_down.weight", {32, 24});
      if (c.qkv_bias) {
        add(layer, "q.bias", "attn_q.bias", {32});
        add(layer, "k.bias", "attn_k.bias", {16});
        add(layer, "v.bias", "attn_v.bias", {16});
      }
      if (c.qk_norm) {
        add(layer, "q_norm.weight", "attn_q_norm.weight", {8});
        add(layer, "k_norm.weight", "attn_k_norm.weight", {8});
      }
    }
    tensors = numbered(tensors);
    GgufWriter w = family_gguf(c.arch, tensors);
    const std::string arch = c.arch;
    add_sizes(w, arch, 32, 24, 4, 2, 4);
    const ModelConfig config = check_gguf(w, tensors, held);
    EXPECT_EQ(config.architecture, arch);
    EXPECT_EQ(config.qkv_bias, c.qkv_bias);
    EXPECT_EQ(config.qk_norm, c.qk_norm);
    EXPECT_EQ(config.layers[2].rope, RopeUse::kMain);
    EXPECT_EQ(config.layers[3].rope, arch == "smollm3" ? RopeUse::kNone : RopeUse::kMain);

    GgufWriter yarn = w;
    yarn.add(arch + ".rope.scaling.type", "yarn").add(arch + ".rope.scaling.factor", 4.0f);
    yarn.add(arch + ".rope.scaling.original_context_length", 32u);
    yarn.add(arch + ".rope.scaling.yarn_beta_fast", 16.0f);
    const RopeConfig rope = check_gguf(yarn, tensors, held).rope;
    EXPECT_EQ(rope.scaling, RopeScaling::kYarn);
    EXPECT_EQ(rope.original_context, 32);
    EXPECT_EQ(rope.beta_fast, 16.0);
    EXPECT_NEAR(rope.attention_factor, 0.1 * std::log(4.0) + 1.0, 1e-12);

    const TempDir dir;
    const auto said = [&](const std::string& key, auto value) {
      GgufWriter changed = w;
      changed.add(arch + key, value);
      changed.write(dir / "x.gguf");
      return refusal(dir / "x.gguf");
    };
    if (arch == "llama") {
      GgufWriter window = w;
      window.add("llama.attention.sliding_window", 50u);
      EXPECT_EQ(check_gguf(window, tensors, held).layers[3].window, 50) << "Mistral's";
    } else {
      EXPECT_THAT(said(".attention.sliding_window", 50u),
                  HasSubstr("attention.sliding_window: is not known of this architecture without"));
      EXPECT_EQ(said(".attention.sliding_window", 128u), "") << "covers the context";
      EXPECT_THAT(said(".expert_count", 8u),
                  HasSubstr("expert_count: mixtures of experts are not known of this"));
    }
    EXPECT_THAT(said(".rope.scaling.type", "longrope"),
                HasSubstr("is 'longrope', but there is no rope_factors_short.weight"));
    EXPECT_THAT(said(".attention.max_alibi_bias", 8.0f), HasSubstr("attention.max_alibi_bias"));
    EXPECT_THAT(said(".attention.clamp_kqv", 8.0f), HasSubstr("attention.clamp_kqv"));
  }
}

// What a fused bias of a packed type would need: parts of blocks.
TEST(FamilyFiles, FusedVectorsOfBlocksAreRefused) {
  auto tensors = numbered({{"token_embd.weight", {320, 32}},
                           {"blk.0.attn_norm.weight", {32}},
                           {"blk.0.attn_norm.bias", {32}},
                           {"blk.0.attn_qkv.weight", {64, 32}},
                           {"blk.0.attn_output.weight", {32, 32}},
                           {"blk.0.attn_output.bias", {32}},
                           {"blk.0.ffn_up.weight", {128, 32}},
                           {"blk.0.ffn_up.bias", {128}},
                           {"blk.0.ffn_down.weight", {32, 128}},
                           {"blk.0.ffn_down.bias", {32}},
                           {"output_norm.weight", {32}},
                           {"output_norm.bias", {32}}});
  GgufWriter w = family_gguf("falcon", tensors);
  add_sizes(w, "falcon", 32, 128, 4, 2);
  w.add_tensor("blk.0.attn_qkv.bias", DType::kQ8_0, {64}, std::string(68, '\0'));
  const TempDir dir;
  w.write(dir / "x.gguf");
  EXPECT_THAT(refusal(dir / "x.gguf"),
              HasSubstr("tensor 'blk.0.attn_qkv.bias' is Q8_0, of which no part can be taken"));
}

// Recipes name models by it: every variation tells two models apart.
TEST(FamilyFiles, FingerprintsTellVariationsApart) {
  const Listing list = gemma_listing(true, false);
  const TempDir dir;
  const auto fingerprint = [&](const char* patch) {
    json config = json::parse(R"({"architectures": ["Gemma3ForCausalLM"], "head_dim": 16,
      "hidden_size": 32, "intermediate_size": 24, "max_position_embeddings": 128,
      "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 1,
      "sliding_window": 20, "vocab_size": 320})");
    config.merge_patch(json::parse(patch));
    write_family_folder(dir / "hf", config, list.tensors);
    return ModelFile::open(dir / "hf").fingerprint();
  };
  const std::string base = fingerprint("{}");
  EXPECT_EQ(fingerprint("{}"), base);
  for (const char* patch :
       {R"({"sliding_window": 21})", R"({"sliding_window_pattern": 2})",
        R"({"rope_local_base_freq": 20000})", R"({"query_pre_attn_scalar": 8})",
        R"({"attn_logit_softcapping": 20})", R"({"final_logit_softcapping": 20})",
        R"({"hidden_activation": "gelu"})",
        R"({"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 64,
            "attention_factor": 1.5}})"}) {
    EXPECT_NE(fingerprint(patch), base) << patch;
  }
}

}  // namespace
}  // namespace lowkey
