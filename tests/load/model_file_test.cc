#include "load/model_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "load/gguf.h"
#include "support/cpu_clock.h"
#include "support/gguf_writer.h"
#include "support/paths.h"
#include "support/safetensors_writer.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using nlohmann::json;
using test::GgufWriter;
using test::TempDir;
using test::TinyModel;
using test::TinyModelOptions;
using test::TinyTensor;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// "code: message", or "" if the model opened.
std::string refusal(const std::filesystem::path& path) {
  try {
    ModelFile::open(path);
  } catch (const Error& error) {
    return std::string(error_code_name(error.code())) + ": " + error.what();
  }
  return "";
}

std::vector<float> values_of(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.rows() * tensor.cols()));
  dequantize_rows(tensor, 0, tensor.rows(), values.data());
  return values;
}

std::vector<TinyModelOptions> variants() {
  std::vector<TinyModelOptions> all(5);
  all[1].tied = false;
  all[1].attention_bias = true;
  all[1].mlp_bias = true;
  all[1].shards = 3;
  all[2].rope_scaling = RopeScaling::kLinear;
  all[2].dtype = DType::kF16;
  all[3].rope_scaling = RopeScaling::kLlama3;
  all[3].dtype = DType::kBF16;
  all[3].kv_heads = 4;
  all[4].head_dim = 32;  // not hidden / heads
  all[4].layers = 1;
  all[4].heads = 3;
  all[4].kv_heads = 1;
  return all;
}

// Every weight arrives under its canonical name, in Hugging Face's row order, from both formats.
TEST(ModelFile, BothFormatsGiveTheSameModel) {
  for (const TinyModelOptions& options : variants()) {
    const TempDir folder;
    const TinyModel tiny(options);
    tiny.write_hugging_face(folder / "hf");
    tiny.write_gguf(folder / "tiny.gguf");
    for (const char* name : {"hf", "tiny.gguf"}) {
      SCOPED_TRACE(name);
      const ModelFile model = ModelFile::open(folder / name);
      const bool is_gguf = model.format() == ModelFormat::kGguf;
      EXPECT_EQ(is_gguf, std::string(name) != "hf");
      EXPECT_EQ(model.path(), folder / name);
      const ModelConfig& c = model.config();
      EXPECT_EQ(c.architecture, "llama");
      EXPECT_EQ(c.name, is_gguf ? "tiny" : "hf");
      EXPECT_EQ(c.num_layers, options.layers);
      EXPECT_EQ(c.hidden_size, options.hidden);
      EXPECT_EQ(c.intermediate_size, options.ffn);
      EXPECT_EQ(c.num_qo_heads, options.heads);
      EXPECT_EQ(c.num_kv_heads, options.kv_heads);
      EXPECT_EQ(c.head_dim, options.head_dim);
      EXPECT_EQ(c.vocab_size, options.vocab);
      EXPECT_EQ(c.max_context, options.max_context);
      EXPECT_EQ(static_cast<float>(c.norm_eps), static_cast<float>(options.norm_eps));
      EXPECT_EQ(c.tied_embeddings, options.tied);
      EXPECT_EQ(c.qkv_bias, options.attention_bias);
      EXPECT_EQ(c.attn_out_bias, options.attention_bias);
      EXPECT_EQ(c.mlp_bias, options.mlp_bias);
      EXPECT_EQ(c.rope.base, options.rope_base);
      EXPECT_EQ(c.rope.dim, options.head_dim);
      uint64_t bytes = 0;
      std::vector<std::string> names;
      for (const TinyTensor& tensor : tiny.tensors()) {
        const TensorView& view = model.tensor(tensor.canonical);
        EXPECT_EQ(view.name, is_gguf ? tensor.gguf : tensor.hugging_face);
        EXPECT_EQ(view.shape, tensor.shape) << tensor.canonical;
        EXPECT_EQ(view.row_order,
                  is_gguf && tensor.rotated ? RowOrder::kInterleavedHeads : RowOrder::kAsStored);
        EXPECT_EQ(values_of(view), tensor.values) << tensor.canonical;
        names.push_back(tensor.canonical);
        bytes += view.data.size();
      }
      EXPECT_EQ(model.tensor_names(), names);
      EXPECT_EQ(model.weight_bytes(), bytes);
      EXPECT_EQ(model.chat_template(), TinyModel::chat_template());
      EXPECT_EQ(model.tokenizer().tokens.size(), static_cast<size_t>(options.vocab));
      EXPECT_EQ(model.tokenizer().bos, 288);
      EXPECT_EQ(model.tokenizer().eos, 290);
      EXPECT_THAT(model.tokenizer().end_of_generation, Contains(290));
    }
  }
}

TEST(ModelFile, RopeScalingArrivesFromBothFormats) {
  const TempDir folder;
  TinyModelOptions options;
  options.rope_scaling = RopeScaling::kLinear;
  TinyModel(options).write_hugging_face(folder / "linear");
  TinyModel(options).write_gguf(folder / "linear.gguf");
  for (const char* name : {"linear", "linear.gguf"}) {
    const RopeConfig rope = ModelFile::open(folder / name).config().rope;
    EXPECT_EQ(rope.scaling, RopeScaling::kLinear);
    EXPECT_EQ(rope.factor, 4.0);
    EXPECT_TRUE(rope.freq_divisors.empty());
  }
  options.rope_scaling = RopeScaling::kLlama3;
  TinyModel(options).write_hugging_face(folder / "llama3");
  TinyModel(options).write_gguf(folder / "llama3.gguf");
  const RopeConfig hf = ModelFile::open(folder / "llama3").config().rope;
  EXPECT_EQ(hf.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(hf.factor, 8.0);
  EXPECT_EQ(hf.low_freq_factor, 1.0);
  EXPECT_EQ(hf.high_freq_factor, 4.0);
  EXPECT_EQ(hf.original_context, 64);
  const RopeConfig gguf = ModelFile::open(folder / "llama3.gguf").config().rope;
  EXPECT_EQ(gguf.scaling, RopeScaling::kNone);
  ASSERT_EQ(gguf.freq_divisors.size(), 8u);
  EXPECT_EQ(gguf.freq_divisors.front(), 1.0f) << "the fastest rotation is left alone";
  EXPECT_EQ(gguf.freq_divisors.back(), 8.0f) << "the slowest is divided by the factor";
}

TEST(ModelFile, GenerationDefaultsComeFromTheFile) {
  const TempDir folder;
  TinyModel().write_hugging_face(folder / "hf");
  const GenerationDefaults hf = ModelFile::open(folder / "hf").generation();
  EXPECT_EQ(hf.temperature, 0.75);
  EXPECT_EQ(hf.top_p, 0.9);
  EXPECT_EQ(hf.top_k, 40);
  EXPECT_EQ(hf.min_p, std::nullopt);
  EXPECT_THAT(ModelFile::open(folder / "hf").tokenizer().end_of_generation,
              AllOf(Contains(288), Contains(290)));
  std::filesystem::remove(folder / "hf/generation_config.json");
  EXPECT_EQ(ModelFile::open(folder / "hf").generation().temperature, std::nullopt);

  GgufWriter w = TinyModel().gguf();
  w.write(folder / "none.gguf");
  EXPECT_EQ(ModelFile::open(folder / "none.gguf").generation().top_k, std::nullopt);
  w.add("general.sampling.temp", 0.5f).add("general.sampling.top_k", uint32_t{20});
  w.write(folder / "some.gguf");
  EXPECT_EQ(ModelFile::open(folder / "some.gguf").generation().temperature, 0.5);
  EXPECT_EQ(ModelFile::open(folder / "some.gguf").generation().top_k, 20);
}

TEST(ModelFile, NamesAWeightThatIsNotThere) {
  const TempDir folder;
  TinyModel().write_gguf(folder / "tiny.gguf");
  const ModelFile model = ModelFile::open(folder / "tiny.gguf");
  EXPECT_EQ(model.find_tensor("head.weight"), nullptr) << "tied";
  try {
    model.tensor("layers.0.q.bias");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), HasSubstr("tiny.gguf: this model has no weight 'layers.0.q.bias'"));
  }
}

TEST(ModelFile, FingerprintTellsModelsApart) {
  const TempDir folder;
  const auto fingerprint = [&](const GgufWriter& w) {
    w.write(folder / "x.gguf");
    return ModelFile::open(folder / "x.gguf").fingerprint();
  };
  const std::string base = fingerprint(TinyModel().gguf());
  EXPECT_EQ(base.size(), 64u);
  EXPECT_EQ(fingerprint(TinyModel().gguf()), base);
  GgufWriter renamed = TinyModel().gguf();
  renamed.set("general.name", "another name");
  EXPECT_EQ(fingerprint(renamed), base) << "what people call it does not matter";
  TinyModelOptions other_seed;
  other_seed.seed = 2;
  EXPECT_NE(fingerprint(TinyModel(other_seed).gguf()), base);
  GgufWriter other_base = TinyModel().gguf();
  other_base.set("llama.rope.freq_base", 20000.0f);
  EXPECT_NE(fingerprint(other_base), base);
  for (size_t i = 0; i < renamed.tensors.size(); ++i) {
    GgufWriter first = TinyModel().gguf(), last = TinyModel().gguf();
    first.tensors[i].data.front() ^= 1;
    last.tensors[i].data.back() ^= 1;
    EXPECT_NE(fingerprint(first), base) << first.tensors[i].name;
    EXPECT_NE(fingerprint(last), base) << last.tensors[i].name;
  }
}

// --- refusals

struct BadGguf {
  const char* name;
  std::function<void(GgufWriter&)> damage;
  const char* message;
};

TEST(ModelFile, RefusesBadGgufConfigurations) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<BadGguf> cases{
      {"other architecture", [](auto& w) { w.set("general.architecture", "mamba"); },
       "unsupported: x.gguf: architecture 'mamba' is not known here (llama, qwen2, qwen3, "
       "qwen3moe, "
       "falcon, gemma, gemma2, gemma3, phi3 and smollm3 are)"},
      {"no architecture", [](auto& w) { w.remove("general.architecture"); },
       "corrupt_file: x.gguf: metadata key 'general.architecture' is missing"},
      {"block_count missing", [](auto& w) { w.remove("llama.block_count"); },
       "corrupt_file: x.gguf: metadata key 'llama.block_count' is missing"},
      {"block_count 2^31", [](auto& w) { w.set("llama.block_count", uint32_t{1} << 31); },
       "corrupt_file: x.gguf: llama.block_count is 2147483648, not between 1 and 4096"},
      {"block_count 2^64-1", [](auto& w) { w.set("llama.block_count", UINT64_MAX); },
       "metadata key 'llama.block_count' is 18446744073709551615, out of range"},
      {"block_count negative", [](auto& w) { w.set("llama.block_count", int32_t{-1}); },
       "llama.block_count is -1, not between 1 and 4096"},
      {"block_count 0", [](auto& w) { w.set("llama.block_count", 0u); },
       "llama.block_count is 0, not between 1 and 4096"},
      {"block_count one more than there are", [](auto& w) { w.set("llama.block_count", 3u); },
       "corrupt_file: x.gguf: tensor 'blk.2.attn_norm.weight' (layers.2.attn_norm.weight) is "
       "missing"},
      {"block_count one less", [](auto& w) { w.set("llama.block_count", 1u); },
       "unsupported: x.gguf: tensor 'blk.1.attn_k.weight' is no part of the llama architecture"},
      {"block_count a float", [](auto& w) { w.set("llama.block_count", 2.0f); },
       "metadata key 'llama.block_count' is a float, not an integer"},
      {"head_count 0", [](auto& w) { w.set("llama.attention.head_count", 0u); },
       "llama.attention.head_count is 0, not between"},
      {"head_count_kv 0", [](auto& w) { w.set("llama.attention.head_count_kv", 0u); },
       "llama.attention.head_count_kv is 0, not between"},
      {"head_count % kv_heads", [](auto& w) { w.set("llama.attention.head_count_kv", 3u); },
       "x.gguf: 4 query heads do not divide among 3 key/value heads"},
      {"kv_heads that differ from layer to layer",
       [](auto& w) {
         w.set("llama.attention.head_count_kv", std::vector<int32_t>{2, 1});
       },
       "unsupported: x.gguf: llama.attention.head_count_kv: differs from layer to layer"},
      {"odd head_dim",
       [](auto& w) {
         w.set("llama.attention.key_length", 15u).set("llama.attention.value_length", 15u);
       },
       "x.gguf: head_dim 15 is odd"},
      {"hidden not a multiple of heads",
       [](auto& w) {
         w.remove("llama.attention.key_length").set("llama.attention.head_count", 6u);
       },
       "x.gguf: embedding_length 64 does not divide into 6 heads"},
      {"value_length", [](auto& w) { w.set("llama.attention.value_length", 8u); },
       "unsupported: x.gguf: llama.attention.value_length: must equal attention.key_length, 16"},
      {"rope dimensions odd", [](auto& w) { w.set("llama.rope.dimension_count", 15u); },
       "x.gguf: 15 rotated channels: not an even number between 2 and head_dim 16"},
      {"rope dimensions above head_dim", [](auto& w) { w.set("llama.rope.dimension_count", 18u); },
       "x.gguf: 18 rotated channels: not an even number"},
      {"rope base NaN", [=](auto& w) { w.set("llama.rope.freq_base", nan); },
       "x.gguf: llama.rope.freq_base is nan, not a finite number above 0"},
      {"rope base infinite", [=](auto& w) { w.set("llama.rope.freq_base", inf); },
       "llama.rope.freq_base is inf, not a finite number above 0"},
      {"rope base 0", [](auto& w) { w.set("llama.rope.freq_base", 0.0f); },
       "llama.rope.freq_base is 0, not a finite number above 0"},
      {"rope base negative", [](auto& w) { w.set("llama.rope.freq_base", -1.0f); },
       "llama.rope.freq_base is -1, not a finite number above 0"},
      {"eps NaN", [=](auto& w) { w.set("llama.attention.layer_norm_rms_epsilon", nan); },
       "llama.attention.layer_norm_rms_epsilon is nan, not a finite number above 0"},
      {"eps 0", [](auto& w) { w.set("llama.attention.layer_norm_rms_epsilon", 0.0f); },
       "llama.attention.layer_norm_rms_epsilon is 0, not a finite number above 0"},
      {"eps missing", [](auto& w) { w.remove("llama.attention.layer_norm_rms_epsilon"); },
       "metadata key 'llama.attention.layer_norm_rms_epsilon' is missing"},
      {"rope factor NaN",
       [=](auto& w) {
         w.add("llama.rope.scaling.type", "linear").add("llama.rope.scaling.factor", nan);
       },
       "llama.rope.scaling.factor is nan, not a finite number above 0"},
      {"rope scaling", [](auto& w) { w.add("llama.rope.scaling.type", "mrope"); },
       "unsupported: x.gguf: llama.rope.scaling.type: 'mrope' is not known here (none, linear, "
       "yarn "
       "and longrope are)"},
      {"experts without their number in use", [](auto& w) { w.add("llama.expert_count", 8u); },
       "corrupt_file: x.gguf: metadata key 'llama.expert_used_count' is missing"},
      {"negative window", [](auto& w) { w.add("llama.attention.sliding_window", -4); },
       "corrupt_file: x.gguf: llama.attention.sliding_window is -4, not between 1 and 2147483647"},
      {"bidirectional", [](auto& w) { w.add("llama.attention.causal", false); },
       "unsupported: x.gguf: llama.attention.causal: only causal attention is known here"},
      {"one part of several", [](auto& w) { w.add("split.count", uint16_t{3}); },
       "unsupported: x.gguf: one part of a model split into 3; join them first"},
      {"context 0", [](auto& w) { w.set("llama.context_length", 0u); },
       "llama.context_length is 0, not between 1 and 2147483647"},
      {"vocab_size", [](auto& w) { w.set("llama.vocab_size", 321u); },
       "x.gguf: llama.vocab_size is 321, but the tokenizer has 320 tokens"},
      {"missing tensor", [](auto& w) { w.remove_tensor("blk.1.ffn_up.weight"); },
       "corrupt_file: x.gguf: tensor 'blk.1.ffn_up.weight' (layers.1.up.weight) is missing"},
      {"missing embedding", [](auto& w) { w.remove_tensor("token_embd.weight"); },
       "tensor 'token_embd.weight' (embed.weight) is missing"},
      {"one bias of three",
       [](auto& w) {
         w.add_tensor("blk.0.attn_q.bias", DType::kF32, {64}, std::string(256, '\0'));
       },
       "tensor 'blk.0.attn_k.bias' (layers.0.k.bias) is missing"},
      {"tensor of another architecture",
       [](auto& w) {
         w.add_tensor("blk.0.attn_q_norm.weight", DType::kF32, {16}, std::string(64, '\0'));
       },
       "unsupported: x.gguf: tensor 'blk.0.attn_q_norm.weight' is no part of the llama "
       "architecture"},
      {"shape against metadata", [](auto& w) { w.set("llama.feed_forward_length", 64u); },
       "corrupt_file: x.gguf: tensor 'blk.0.ffn_gate.weight' has shape [128, 64], but the "
       "configuration asks for [64, 64]"},
      {"transposed tensor",
       [](auto& w) {
         for (auto& tensor : w.tensors) {
           if (tensor.name == "blk.1.attn_k.weight") std::swap(tensor.dims[0], tensor.dims[1]);
         }
       },
       "tensor 'blk.1.attn_k.weight' has shape [64, 32], but the configuration asks for [32, 64]"},
      {"a vector that is a matrix",
       [](auto& w) {
         for (auto& tensor : w.tensors) {
           if (tensor.name == "output_norm.weight") tensor.dims = {64, 1};
         }
       },
       "tensor 'output_norm.weight' has shape [1, 64], but the configuration asks for [64]"},
      {"rope_freqs of another size",
       [](auto& w) {
         w.add_tensor("rope_freqs.weight", DType::kF32, {4}, std::string(16, '\x3f'));
       },
       "x.gguf: tensor 'rope_freqs.weight' is F32 [4], not F32 [8]"},
      {"rope_freqs of zeros",
       [](auto& w) { w.add_tensor("rope_freqs.weight", DType::kF32, {8}, std::string(32, '\0')); },
       "a value of rope_freqs.weight is 0, not a finite number above 0"},
      {"rope_freqs of NaN",
       [](auto& w) {
         w.add_tensor("rope_freqs.weight", DType::kF32, {8}, std::string(32, '\xff'));
       },
       "a value of rope_freqs.weight is -nan, not a finite number above 0"},
      {"special id outside", [](auto& w) { w.set("tokenizer.ggml.eos_token_id", 320u); }, "320"},
      {"chat template a number", [](auto& w) { w.set("tokenizer.chat_template", 1u); },
       "metadata key 'tokenizer.chat_template' is an unsigned integer, not a string"},
  };
  const TempDir folder;
  const auto said_of = [&](const GgufWriter& w) {
    w.write(folder / "x.gguf");
    std::string said = refusal(folder / "x.gguf");
    const std::string prefix = folder.path().string() + "/";
    for (size_t at; (at = said.find(prefix)) != std::string::npos;) said.erase(at, prefix.size());
    return said;
  };
  ASSERT_EQ(said_of(TinyModel().gguf()), "");
  for (const BadGguf& c : cases) {
    GgufWriter w = TinyModel().gguf();
    c.damage(w);
    const std::string said = said_of(w);
    EXPECT_THAT(said, AllOf(HasSubstr(c.message), HasSubstr("x.gguf"))) << c.name;
    EXPECT_EQ(said.find('\n'), std::string::npos) << c.name << ": one line";
  }
}

// Files from before a key existed, and what such keys mean.
TEST(ModelFile, AcceptsGgufsThatLeaveDefaultsOut) {
  const TempDir folder;
  GgufWriter w = TinyModel().gguf();
  w.remove("llama.attention.key_length").remove("llama.attention.value_length");
  w.remove("llama.rope.dimension_count").remove("llama.rope.freq_base").remove("llama.vocab_size");
  w.set("llama.attention.head_count_kv", std::vector<int32_t>{2, 2});
  w.add("llama.rope.scale_linear", 2.0f).remove("tokenizer.chat_template");
  w.write(folder / "x.gguf");
  const ModelFile model = ModelFile::open(folder / "x.gguf");
  EXPECT_EQ(model.config().head_dim, 16);
  EXPECT_EQ(model.config().num_kv_heads, 2);
  EXPECT_EQ(model.config().rope.dim, 16);
  EXPECT_EQ(model.config().rope.base, 10000.0);
  EXPECT_EQ(model.config().rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(model.config().rope.factor, 2.0);
  EXPECT_EQ(model.chat_template(), "");
}

struct BadFolder {
  const char* name;
  const char* file;
  std::function<void(json&)> damage;
  const char* message;
};

class HuggingFaceFolder {
 public:
  explicit HuggingFaceFolder(const TinyModelOptions& options = {}) {
    TinyModel(options).write_hugging_face(dir_.path() / "hf");
  }
  std::filesystem::path path() const { return dir_.path() / "hf"; }
  void edit(const std::string& file, const std::function<void(json&)>& change) const {
    json value = json::parse(read_file(path() / file));
    change(value);
    write_file_atomically(path() / file, value.dump());
  }
  // Without the temporary folder's name.
  std::string refusal() const {
    std::string said = lowkey::refusal(path());
    const std::string prefix = dir_.path().string() + "/";
    for (size_t at; (at = said.find(prefix)) != std::string::npos;) said.erase(at, prefix.size());
    return said;
  }

 private:
  TempDir dir_;
};

TEST(ModelFile, RefusesBadHuggingFaceFolders) {
  const char* config = "config.json";
  const std::vector<BadFolder> cases{
      {"other architecture", config, [](json& j) { j["architectures"] = {"MambaForCausalLM"}; },
       "unsupported: hf/config.json: architecture 'MambaForCausalLM' is not known here "
       "(LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM, Qwen2ForCausalLM, "},
      {"other model_type", config,
       [](json& j) { j.erase("architectures"), j["model_type"] = "mamba"; },
       "unsupported: hf/config.json: architecture 'mamba' is not known here"},
      {"no architecture", config, [](json& j) { j.erase("architectures"), j.erase("model_type"); },
       "architecture '' is not known here"},
      {"architecture with an escape", config, [](json& j) { j["architectures"] = {"\x1b[2J"}; },
       "architecture '(unprintable)' is not known here"},
      {"not an object", config, [](json& j) { j = json::array(); },
       "corrupt_file: hf/config.json: the top level is array, not an object"},
      {"layers 2^31", config, [](json& j) { j["num_hidden_layers"] = 2147483648; },
       "corrupt_file: hf/config.json: 'num_hidden_layers' is 2147483648, not between 1 and 4096"},
      {"layers 2^64-1", config, [](json& j) { j["num_hidden_layers"] = UINT64_MAX; },
       "hf/config.json: 'num_hidden_layers' is 18446744073709551615, out of range"},
      {"layers as text", config, [](json& j) { j["num_hidden_layers"] = "2"; },
       "hf/config.json: 'num_hidden_layers' is string, not an integer"},
      {"layers 2.5", config, [](json& j) { j["num_hidden_layers"] = 2.5; },
       "hf/config.json: 'num_hidden_layers' is number, not an integer"},
      {"hidden_size missing", config, [](json& j) { j.erase("hidden_size"); },
       "hf/config.json: 'hidden_size' is missing"},
      {"hidden_size null", config, [](json& j) { j["hidden_size"] = nullptr; },
       "hf/config.json: 'hidden_size' is missing"},
      {"hidden not a multiple of heads", config,
       [](json& j) { j["head_dim"] = nullptr, j["num_attention_heads"] = 6; },
       "hf/config.json: hidden_size 64 does not divide into 6 heads"},
      {"heads % kv_heads", config, [](json& j) { j["num_key_value_heads"] = 3; },
       "hf/config.json: 4 query heads do not divide among 3 key/value heads"},
      {"eps 0", config, [](json& j) { j["rms_norm_eps"] = 0; },
       "hf/config.json: 'rms_norm_eps' is 0, not a finite number above 0"},
      {"rope base 0", config, [](json& j) { j["rope_theta"] = 0.0; },
       "hf/config.json: 'rope_theta' is 0, not a finite number above 0"},
      {"rope base negative, new spelling", config,
       [](json& j) {
         j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", -1.0}};
       },
       "hf/config.json: 'rope_parameters.rope_theta' is -1, not a finite number above 0"},
      {"rope kind", config,
       [](json& j) {
         j["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
       },
       "unsupported: hf/config.json: 'rope_scaling.rope_type': 'dynamic' is not known here "
       "(default, linear, llama3, yarn and longrope are)"},
      {"rope factor missing", config,
       [](json& j) {
         j["rope_scaling"] = {{"rope_type", "linear"}};
       },
       "hf/config.json: 'rope_scaling.factor' is missing"},
      {"rope factor 0", config,
       [](json& j) {
         j["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 0}};
       },
       "hf/config.json: 'rope_scaling.factor' is 0, not a finite number above 0"},
      {"llama3 factors equal", config,
       [](json& j) {
         j["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 4.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 64}};
       },
       "hf/config.json: rope high_freq_factor 4 is not above low_freq_factor 4"},
      {"llama3 without its context", config,
       [](json& j) {
         j["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0}};
       },
       "hf/config.json: 'rope_scaling.original_max_position_embeddings' is missing"},
      {"rope_scaling is text", config, [](json& j) { j["rope_scaling"] = "linear"; },
       "hf/config.json: 'rope_scaling' is string, not an object"},
      {"rope per kind of layer", config,
       [](json& j) {
         j["rope_parameters"] = {{"full_attention", {{"rope_theta", 1e4}}}};
       },
       "unsupported: hf/config.json: 'rope_parameters.full_attention': rope per kind of layer"},
      {"partial rotary above 1", config, [](json& j) { j["partial_rotary_factor"] = 1.5; },
       "hf/config.json: 'partial_rotary_factor' is 1.5, more than 1"},
      {"partial rotary odd", config, [](json& j) { j["partial_rotary_factor"] = 0.2; },
       "hf/config.json: 3 rotated channels: not an even number between 2 and head_dim 16"},
      {"activation", config, [](json& j) { j["hidden_act"] = "quick_gelu"; },
       "unsupported: hf/config.json: 'hidden_act': 'quick_gelu' is not known here (silu, gelu, "
       "gelu_pytorch_tanh and relu are)"},
      {"quantized weights", config,
       [](json& j) {
         j["quantization_config"] = {{"quant_method", "gptq"}};
       },
       "unsupported: hf/config.json: 'quantization_config': weights quantized"},
      {"mistral's window", config,
       [](json& j) { j["architectures"] = {"MistralForCausalLM"}, j["sliding_window"] = 0; },
       "corrupt_file: hf/config.json: 'sliding_window' is 0, not between 1 and 2147483647"},
      {"tied is a number", config, [](json& j) { j["tie_word_embeddings"] = 1; },
       "hf/config.json: 'tie_word_embeddings' is number, not true or false"},
      {"untied, but no head", config, [](json& j) { j["tie_word_embeddings"] = false; },
       "corrupt_file: hf: tensor 'lm_head.weight' (head.weight) is missing"},
      {"bias promised", config, [](json& j) { j["attention_bias"] = true; },
       "hf: tensor 'model.layers.0.self_attn.q_proj.bias' (layers.0.q.bias) is missing"},
      {"fewer layers than weights", config, [](json& j) { j["num_hidden_layers"] = 1; },
       "unsupported: hf: tensor 'model.layers.1.input_layernorm.weight' is no part of the llama"},
      {"shape", config, [](json& j) { j["intermediate_size"] = 100; },
       "hf: tensor 'model.layers.0.mlp.gate_proj.weight' has shape [128, 64], but the "
       "configuration "
       "asks for [100, 64]"},
      {"more tokens than embeddings", config, [](json& j) { j["vocab_size"] = 319; },
       "has shape [320, 64], but the configuration asks for [319, 64]"},
      {"eos outside", config, [](json& j) { j["eos_token_id"] = 320; },
       "corrupt_file: hf: the end-of-generation token is 320, not one of the 320 tokens"},
      {"eos negative", config, [](json& j) { j["eos_token_id"] = -5; },
       "hf/config.json: 'eos_token_id' is not a token id"},
      {"eos as text", config, [](json& j) { j["eos_token_id"] = {"x"}; },
       "hf/config.json: 'eos_token_id' is not a token id"},
      {"temperature as text", "generation_config.json", [](json& j) { j["temperature"] = "hot"; },
       "hf/generation_config.json: 'temperature' is string, not a number"},
      {"template a number", "tokenizer_config.json", [](json& j) { j["chat_template"] = 3; },
       "hf/tokenizer_config.json: 'chat_template' is number, not a string"},
      {"template list of text", "tokenizer_config.json",
       [](json& j) { j["chat_template"] = {"x"}; },
       "hf/tokenizer_config.json: 'chat_template[]' is string, not an object"},
  };
  ASSERT_EQ(HuggingFaceFolder().refusal(), "");
  for (const BadFolder& c : cases) {
    const HuggingFaceFolder folder;
    folder.edit(c.file, c.damage);
    const std::string said = folder.refusal();
    EXPECT_THAT(said, HasSubstr(c.message)) << c.name;
    EXPECT_EQ(said.find('\n'), std::string::npos) << c.name << ": one line";
  }
}

TEST(ModelFile, RefusesConfigsThatAreNotJson) {
  const HuggingFaceFolder folder;
  const auto with = [&](const std::string& text) {
    write_file_atomically(folder.path() / "config.json", text);
    return folder.refusal();
  };
  EXPECT_THAT(with("{\"a\": }"),
              HasSubstr("corrupt_file: hf/config.json: at byte 7: not valid JSON"));
  EXPECT_THAT(with(""), HasSubstr("hf/config.json: at byte 1: not valid JSON"));
  EXPECT_THAT(with("{\"rms_norm_eps\": NaN}"), HasSubstr("not valid JSON"))
      << "as Python writes it";
  EXPECT_THAT(with("{\"rms_norm_eps\": 1e999}"),
              HasSubstr("not valid JSON: a number is out of range"));
  EXPECT_THAT(with(std::string(100'000, '[')), HasSubstr("at byte 64: JSON nests deeper than 64"));
  EXPECT_THAT(with("{\"" + std::string(5'000'000, 'x') + "\": 1}"),
              HasSubstr("larger than 4194304"));
}

TEST(ModelFile, ReadsTheOtherSpellingsOfHuggingFaceConfigs) {
  const HuggingFaceFolder folder;
  const auto config = [&] { return ModelFile::open(folder.path()).config(); };
  folder.edit("config.json", [](json& j) {  // transformers 5
    j.erase("rope_theta");
    j["rope_parameters"] = {{"rope_type", "llama3"},
                            {"rope_theta", 500000.0},
                            {"factor", 32.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 128},
                            {"partial_rotary_factor", 0.5}};
  });
  EXPECT_EQ(config().rope.base, 500000.0);
  EXPECT_EQ(config().rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(config().rope.factor, 32.0);
  EXPECT_EQ(config().rope.original_context, 128);
  EXPECT_EQ(config().rope.dim, 8);
  folder.edit("config.json", [](json& j) {  // before 4.43
    j.erase("rope_parameters");
    j.erase("head_dim");
    j["rope_theta"] = 20000;
    j["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
    j["partial_rotary_factor"] = 0.25;
  });
  EXPECT_EQ(config().rope.base, 20000.0);
  EXPECT_EQ(config().rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(config().rope.factor, 2.0);
  EXPECT_EQ(config().rope.dim, 4);
  EXPECT_EQ(config().head_dim, 16);
  folder.edit("config.json", [](json& j) {
    j["rope_scaling"] = {{"rope_type", "default"}};
    j.erase("architectures");
    j.erase("rms_norm_eps");
    j.erase("rope_theta");
    j["sliding_window"] = 128;  // Llama has none: transformers ignores it there
  });
  EXPECT_EQ(config().rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(config().norm_eps, 1e-6);
  EXPECT_EQ(config().rope.base, 10000.0);
  folder.edit("config.json", [](json& j) {
    j["architectures"] = {"MistralForCausalLM"};
    j["sliding_window"] = nullptr;
  });
  EXPECT_EQ(config().architecture, "mistral");
  EXPECT_EQ(config().layers.front().window, 0);
  folder.edit("config.json", [](json& j) { j["sliding_window"] = 512; });  // as long as the context
  EXPECT_EQ(config().layers.front().window, 0);
  folder.edit("config.json", [](json& j) { j["sliding_window"] = 128; });
  EXPECT_EQ(config().layers.front().window, 128);
  EXPECT_EQ(config().layers.back().window, 128);
}

TEST(ModelFile, FindsTheChatTemplateWhereverItIs) {
  const HuggingFaceFolder folder;
  const auto chat_template = [&] { return ModelFile::open(folder.path()).chat_template(); };
  folder.edit("tokenizer_config.json", [](json& j) {
    j["chat_template"] = {{{"name", "tool_use"}, {"template", "tools"}},
                          {{"name", "default"}, {"template", "chat"}}};
  });
  EXPECT_EQ(chat_template(), "chat");
  folder.edit("tokenizer_config.json", [](json& j) {
    j["chat_template"] = {{{"name", "tool_use"}, {"template", "tools"}}};
  });
  EXPECT_EQ(chat_template(), "");
  write_file_atomically(folder.path() / "chat_template.jinja", "from a file");
  EXPECT_EQ(chat_template(), "from a file");
}

TEST(ModelFile, ShardedFoldersAreCheckedAgainstTheirIndex) {
  TinyModelOptions options;
  options.shards = 3;
  const char* index = "model.safetensors.index.json";
  const std::string norm = "model.norm.weight";
  const std::vector<BadFolder> cases{
      {"no map", index, [](json& j) { j.erase("weight_map"); },
       "corrupt_file: hf/model.safetensors.index.json: 'weight_map' is not an object"},
      {"outside the folder", index, [&](json& j) { j["weight_map"][norm] = "../../secret"; },
       "index.json: the file of tensor 'model.norm.weight' is not a file name"},
      {"absolute", index, [&](json& j) { j["weight_map"][norm] = "/etc/passwd"; },
       "index.json: the file of tensor 'model.norm.weight' is not a file name"},
      {"the folder itself", index, [&](json& j) { j["weight_map"][norm] = ".."; },
       "index.json: the file of tensor 'model.norm.weight' is not a file name"},
      {"a number", index, [&](json& j) { j["weight_map"][norm] = 3; },
       "index.json: the file of tensor 'model.norm.weight' is not a file name"},
      {"shard that is not there", index,
       [&](json& j) { j["weight_map"][norm] = "other.safetensors"; },
       "not_found: hf/other.safetensors"},
      {"in another shard", index,
       [&](json& j) {
         j["weight_map"][norm] = j["weight_map"][norm] == "model-00001-of-00003.safetensors"
                                     ? "model-00002-of-00003.safetensors"
                                     : "model-00001-of-00003.safetensors";
       },
       "index.json: tensor 'model.norm.weight' lies in model-0000"},
      {"not in the index", index, [&](json& j) { j["weight_map"].erase(norm); },
       "index.json: tensor 'model.norm.weight' lies in model-0000"},
      {"only in the index", index,
       [](json& j) { j["weight_map"]["ghost"] = "model-00001-of-00003.safetensors"; },
       "index.json: tensor 'ghost' is not in model-00001-of-00003.safetensors"},
  };
  ASSERT_EQ(HuggingFaceFolder(options).refusal(), "");
  for (const BadFolder& c : cases) {
    const HuggingFaceFolder folder(options);
    folder.edit(c.file, c.damage);
    EXPECT_THAT(folder.refusal(), HasSubstr(c.message)) << c.name;
  }
  const HuggingFaceFolder no_weights;
  std::filesystem::remove(no_weights.path() / "model.safetensors");
  EXPECT_THAT(no_weights.refusal(),
              HasSubstr("not_found: hf: no model.safetensors and no model.safetensors.index.json"));
  write_file_atomically(no_weights.path() / "pytorch_model.bin", "x");
  EXPECT_THAT(no_weights.refusal(), HasSubstr("save the model as safetensors"));
}

TEST(ModelFile, ATensorOfAnotherTypeIsNamedOnlyIfNeeded) {
  const HuggingFaceFolder folder;
  const auto rewrite = [&](const std::string& odd_name) {
    test::SafetensorsWriter w;
    const TinyModel tiny;
    for (const TinyTensor& tensor : tiny.tensors()) {
      const bool odd = tensor.hugging_face == odd_name;
      const size_t count = tensor.values.size();
      w.add_tensor(tensor.hugging_face, odd ? "F64" : "F32", tensor.shape,
                   std::string(count * (odd ? 8 : 4), '\0'));
    }
    w.add_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {8}, std::string(32, '\0'));
    w.add_tensor("lm_head.weight", "F32", {1}, std::string(4, '\0'));  // tied: never looked at
    w.add_tensor("position_ids", "I64", {4}, std::string(32, '\0'));
    w.write(folder.path() / "model.safetensors");
  };
  rewrite("");
  EXPECT_EQ(folder.refusal(), "");
  rewrite("model.norm.weight");
  EXPECT_THAT(folder.refusal(),
              HasSubstr("unsupported: hf: tensor 'model.norm.weight' has type F64, "
                        "which is not read (F32 F16 BF16 are)"));
}

TEST(ModelFile, PathsThatAreNoModelSayWhatToDo) {
  const TempDir folder;
  EXPECT_THAT(refusal(folder / "absent"), HasSubstr("not_found: "));
  EXPECT_THAT(refusal(folder / "absent"), HasSubstr("/absent: no such file or folder"));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("a folder without config.json or a .gguf file"));
  TinyModel().write_gguf(folder / "tiny.gguf");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("did you mean " + (folder / "tiny.gguf").string()));
  TinyModel().write_hugging_face(folder / "hf");
  EXPECT_THAT(refusal(folder / "hf/config.json"), HasSubstr("name the folder"));
  EXPECT_THAT(refusal(folder / "hf/model.safetensors"), HasSubstr("name the folder"));
  EXPECT_THAT(refusal(folder / "hf/tokenizer.json"), HasSubstr("not a GGUF file"));
  EXPECT_THAT(refusal("/dev/null"), HasSubstr("not a regular file"));
}

// --- real files

TEST(ModelFile, OpensSmolLm2InAnInstant) {
  const auto path = test::real_model();
  if (!path) GTEST_SKIP() << "no SmolLM2 GGUF: run './dev setup' or set LOWKEY_MODEL";
  const double start = test::process_cpu_seconds();
  const ModelFile model = ModelFile::open(*path);
  const double taken = test::process_cpu_seconds() - start;
  EXPECT_LT(taken, 1.0 * test::kSlowBuild);
  const ModelConfig& c = model.config();
  EXPECT_EQ(c.num_layers, 30);
  EXPECT_EQ(c.hidden_size, 576);
  EXPECT_EQ(c.intermediate_size, 1536);
  EXPECT_EQ(c.num_qo_heads, 9);
  EXPECT_EQ(c.num_kv_heads, 3);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.vocab_size, 49152);
  EXPECT_EQ(c.max_context, 8192);
  EXPECT_EQ(c.rope.base, 100000.0);
  EXPECT_EQ(c.rope.dim, 64);
  EXPECT_EQ(c.rope.scaling, RopeScaling::kNone);
  EXPECT_TRUE(c.rope.freq_divisors.empty());
  EXPECT_FLOAT_EQ(static_cast<float>(c.norm_eps), 1e-5f);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_FALSE(c.qkv_bias || c.attn_out_bias || c.mlp_bias);
  EXPECT_EQ(model.tensor("embed.weight").dtype, DType::kQ8_0);
  EXPECT_EQ(model.tensor("layers.29.down.weight").dtype, DType::kQ4_1);
  EXPECT_EQ(model.tensor("layers.0.attn_norm.weight").dtype, DType::kF32);
  EXPECT_EQ(model.tensor("layers.3.k.weight").row_order, RowOrder::kInterleavedHeads);
  EXPECT_EQ(model.tensor("layers.3.k.weight").head_rows, 64);
  EXPECT_EQ(model.tensor("layers.3.v.weight").row_order, RowOrder::kAsStored);
  EXPECT_EQ(model.tensor_names().size(), 272u);
  EXPECT_EQ(model.weight_bytes(), 98362432u - 1785664u);
  const TokenizerSpec& t = model.tokenizer();
  EXPECT_EQ(t.tokens.size(), 49152u);
  EXPECT_EQ(t.merges.size(), 48900u);
  EXPECT_EQ(t.pre_tokenizer, "smollm");
  EXPECT_EQ(t.bos, 1);
  EXPECT_EQ(t.eos, 2);
  EXPECT_EQ(t.unk, 0);
  EXPECT_EQ(t.pad, 2);
  EXPECT_FALSE(t.add_bos);
  EXPECT_EQ(std::count(t.token_kinds.begin(), t.token_kinds.end(), TokenKind::kControl), 17);
  EXPECT_THAT(model.chat_template(), HasSubstr("You are a helpful AI assistant named SmolLM"));
  EXPECT_EQ(model.fingerprint(), ModelFile::open(*path).fingerprint());
}

TEST(ModelFile, OpensStories260K) {
  const auto path = test::shared_data("stories260K/stories260K-f32.gguf");
  if (!path) GTEST_SKIP() << "no shared data: set LOWKEY_SHARED_DIR";
  const ModelFile model = ModelFile::open(*path);
  EXPECT_EQ(model.config().num_layers, 5);
  EXPECT_EQ(model.config().num_qo_heads, 8);
  EXPECT_EQ(model.config().num_kv_heads, 4);
  EXPECT_EQ(model.config().head_dim, 8);
  EXPECT_FALSE(model.config().tied_embeddings) << "this file stores the head a second time";
  EXPECT_EQ(values_of(model.tensor("head.weight")), values_of(model.tensor("embed.weight")));
  EXPECT_EQ(model.tokenizer().kind, TokenizerKind::kSentencePiece);
}

TEST(ModelFile, AVocabularyAloneIsNotAModel) {
  const auto path = test::shared_data("tokenizer/ggml-vocab-llama-spm.gguf");
  if (!path) GTEST_SKIP() << "no shared data: set LOWKEY_SHARED_DIR";
  EXPECT_THAT(refusal(*path), HasSubstr("tensor 'token_embd.weight' (embed.weight) is missing"));
}

}  // namespace
}  // namespace lowkey
