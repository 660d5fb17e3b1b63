#include "support/tiny_model.h"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "core/error.h"
#include "core/files.h"
#include "core/half.h"
#include "core/rng.h"
#include "support/safetensors_writer.h"

namespace lowkey::test {
namespace {

using nlohmann::json;

constexpr int32_t kEndOfText = 288, kImStart = 289, kImEnd = 290;
constexpr double kLinearFactor = 4.0;
constexpr double kLlama3Factor = 8.0, kLowFreqFactor = 1.0, kHighFreqFactor = 4.0;
constexpr int32_t kOriginalContext = 64;

// Token 256 + i is the i-th merge.
constexpr std::array kMerges{"Ġ t", "Ġ a",  "h e", "i n", "r e",  "o n", "Ġt he", "e r",
                             "Ġ s", "a t",  "Ġ w", "Ġ o", "e n",  "Ġ c", "i t",   "i s",
                             "a n", "o r",  "e s", "Ġ b", "e d",  "Ġ f", "in g",  "Ġ p",
                             "o u", "Ġa n", "a l", "a r", "Ġt o", "Ġ m", "Ġo f",  "Ġ in"};

// GPT-2's printable alphabet: bytes that print stand for themselves, the others for U+0100 onwards.
std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = prints ? byte : next++;
    tokens.push_back(code < 128 ? std::string(1, static_cast<char>(code))
                                : std::string{static_cast<char>(0xc0 | code >> 6),
                                              static_cast<char>(0x80 | (code & 63))});
  }
  return tokens;
}

std::vector<std::string> vocabulary(int32_t size) {
  LOWKEY_CHECK(size > kImEnd, "vocab {}", size);
  std::vector<std::string> tokens = byte_tokens();
  for (std::string merge : kMerges) {
    merge.erase(merge.find(' '), 1);
    tokens.push_back(merge);
  }
  tokens.insert(tokens.end(), {"<|endoftext|>", "<|im_start|>", "<|im_end|>"});
  for (int32_t id = kImEnd + 1; id < size; ++id) tokens.push_back(fmt::format("<|unused_{}|>", id));
  return tokens;
}

float rounded(float value, DType dtype) {
  if (dtype == DType::kF16) return half_to_float(float_to_half(value));
  if (dtype == DType::kBF16) return bfloat16_to_float(float_to_bfloat16(value));
  LOWKEY_CHECK(dtype == DType::kF32, "tiny models are F32, F16 or BF16");
  return value;
}

std::string encoded(const std::vector<float>& values, DType dtype) {
  ByteWriter out;
  for (float value : values) {
    if (dtype == DType::kF16) {
      out.put(float_to_half(value).bits);
    } else if (dtype == DType::kBF16) {
      out.put(float_to_bfloat16(value).bits);
    } else {
      out.put(value);
    }
  }
  return out.bytes();
}

// Sorted keys, no spaces, no final newline: what Python's json writes with the same settings.
void write_json(const std::filesystem::path& path, const json& value) {
  write_file_atomically(path, value.dump());
}

json config_json(const TinyModelOptions& o) {
  json config{{"architectures", {"LlamaForCausalLM"}},
              {"attention_bias", o.attention_bias},
              {"bos_token_id", kEndOfText},
              {"eos_token_id", kImEnd},
              {"head_dim", o.head_dim},
              {"hidden_act", "silu"},
              {"hidden_size", o.hidden},
              {"intermediate_size", o.ffn},
              {"max_position_embeddings", o.max_context},
              {"mlp_bias", o.mlp_bias},
              {"model_type", "llama"},
              {"num_attention_heads", o.heads},
              {"num_hidden_layers", o.layers},
              {"num_key_value_heads", o.kv_heads},
              {"rms_norm_eps", o.norm_eps},
              {"rope_scaling", nullptr},
              {"rope_theta", o.rope_base},
              {"tie_word_embeddings", o.tied},
              {"torch_dtype", o.dtype == DType::kF32   ? "float32"
                              : o.dtype == DType::kF16 ? "float16"
                                                       : "bfloat16"},
              {"vocab_size", o.vocab}};
  if (o.rope_scaling == RopeScaling::kLinear) {
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", kLinearFactor}};
  } else if (o.rope_scaling == RopeScaling::kLlama3) {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", kLlama3Factor},
                              {"low_freq_factor", kLowFreqFactor},
                              {"high_freq_factor", kHighFreqFactor},
                              {"original_max_position_embeddings", kOriginalContext}};
  }
  return config;
}

json tokenizer_json(int32_t vocab_size) {
  const std::vector<std::string> tokens = vocabulary(vocab_size);
  json vocab, added = json::array();
  for (size_t id = 0; id < tokens.size(); ++id) vocab[tokens[id]] = id;
  for (int32_t id : {kEndOfText, kImStart, kImEnd}) {
    added.push_back({{"id", id},
                     {"content", tokens[static_cast<size_t>(id)]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const json byte_level{{"type", "ByteLevel"},
                        {"add_prefix_space", false},
                        {"trim_offsets", true},
                        {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", kMerges}}}};
}

json tokenizer_config_json(int32_t max_context) {
  return {{"add_bos_token", false},
          {"bos_token", "<|endoftext|>"},
          {"chat_template", TinyModel::chat_template()},
          {"clean_up_tokenization_spaces", false},
          {"eos_token", "<|im_end|>"},
          {"model_max_length", max_context},
          {"pad_token", "<|im_end|>"},
          {"tokenizer_class", "PreTrainedTokenizerFast"}};
}

json generation_config_json() {
  return {{"bos_token_id", kEndOfText},
          {"do_sample", true},
          {"eos_token_id", {kImEnd, kEndOfText}},
          {"pad_token_id", kImEnd},
          {"temperature", 0.75},
          {"top_k", 40},
          {"top_p", 0.9}};
}

// What each of RoPE's frequencies is divided by: the published rule of Llama 3.1.
std::vector<float> llama3_divisors(const TinyModelOptions& o) {
  std::vector<float> divisors;
  for (int32_t i = 0; i < o.head_dim; i += 2) {
    const double frequency = 1.0 / std::pow(o.rope_base, static_cast<double>(i) / o.head_dim);
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    const double smooth =
        (kOriginalContext / wavelength - kLowFreqFactor) / (kHighFreqFactor - kLowFreqFactor);
    double divisor = 1.0 / ((1.0 - smooth) / kLlama3Factor + smooth);
    if (wavelength < kOriginalContext / kHighFreqFactor) divisor = 1.0;
    if (wavelength > kOriginalContext / kLowFreqFactor) divisor = kLlama3Factor;
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

// As llama.cpp's converter does: each head's two halves of rows become alternating rows.
std::vector<float> interleaved(const TinyTensor& tensor, int32_t head_dim) {
  const size_t width = tensor.shape.size() == 2 ? static_cast<size_t>(tensor.shape[1]) : 1;
  const auto head = static_cast<size_t>(head_dim);
  std::vector<float> out;
  for (size_t row = 0; row < static_cast<size_t>(tensor.shape[0]); ++row) {
    const size_t in_head = row % head;
    const size_t source = row - in_head + (in_head % 2) * (head / 2) + in_head / 2;
    const auto first = tensor.values.begin() + static_cast<ptrdiff_t>(source * width);
    out.insert(out.end(), first, first + static_cast<ptrdiff_t>(width));
  }
  return out;
}

}  // namespace

const char* TinyModel::chat_template() {
  return "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
         "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
         "'<|im_start|>assistant\\n' }}{% endif %}";
}

TinyModel::TinyModel(TinyModelOptions options) : options_(options) {
  const TinyModelOptions& o = options_;
  SplitMix64 rng(o.seed);
  // offset + amplitude * x
  const auto add = [&](TinyTensor tensor, double offset, double amplitude) {
    int64_t count = 1;
    for (int64_t size : tensor.shape) count *= size;
    tensor.values.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const double x = rng.uniform() * 2.0 - 1.0;
      tensor.values.push_back(rounded(static_cast<float>(offset + amplitude * x), o.dtype));
    }
    tensors_.push_back(std::move(tensor));
  };
  const int64_t q = int64_t{o.heads} * o.head_dim, kv = int64_t{o.kv_heads} * o.head_dim;
  add({"embed.weight", "model.embed_tokens.weight", "token_embd.weight", {o.vocab, o.hidden}, {}},
      0, 1);
  for (int32_t layer = 0; layer < o.layers; ++layer) {
    const auto names = [&](const char* canonical, const char* hf, const char* gguf,
                           const char* suffix) {
      TinyTensor tensor;
      tensor.canonical = fmt::format("layers.{}.{}.{}", layer, canonical, suffix);
      tensor.hugging_face = fmt::format("model.layers.{}.{}.{}", layer, hf, suffix);
      tensor.gguf = fmt::format("blk.{}.{}.{}", layer, gguf, suffix);
      tensor.rotated = std::string(canonical) == "q" || std::string(canonical) == "k";
      return tensor;
    };
    const auto norm = [&](const char* canonical, const char* hf, const char* gguf) {
      TinyTensor tensor = names(canonical, hf, gguf, "weight");
      tensor.shape = {o.hidden};
      add(std::move(tensor), 1, 0.1);
    };
    const auto linear = [&](const char* canonical, const char* hf, const char* gguf, int64_t rows,
                            int64_t cols, bool has_bias) {
      TinyTensor weight = names(canonical, hf, gguf, "weight");
      weight.shape = {rows, cols};
      add(std::move(weight), 0, std::sqrt(3.0 / static_cast<double>(cols)));
      if (!has_bias) return;
      TinyTensor bias = names(canonical, hf, gguf, "bias");
      bias.shape = {rows};
      add(std::move(bias), 0, 0.1);
    };
    norm("attn_norm", "input_layernorm", "attn_norm");
    linear("q", "self_attn.q_proj", "attn_q", q, o.hidden, o.attention_bias);
    linear("k", "self_attn.k_proj", "attn_k", kv, o.hidden, o.attention_bias);
    linear("v", "self_attn.v_proj", "attn_v", kv, o.hidden, o.attention_bias);
    linear("o", "self_attn.o_proj", "attn_output", o.hidden, q, o.attention_bias);
    norm("mlp_norm", "post_attention_layernorm", "ffn_norm");
    linear("gate", "mlp.gate_proj", "ffn_gate", o.ffn, o.hidden, o.mlp_bias);
    linear("up", "mlp.up_proj", "ffn_up", o.ffn, o.hidden, o.mlp_bias);
    linear("down", "mlp.down_proj", "ffn_down", o.hidden, o.ffn, o.mlp_bias);
  }
  add({"final_norm.weight", "model.norm.weight", "output_norm.weight", {o.hidden}, {}}, 1, 0.1);
  if (!o.tied)
    add({"head.weight", "lm_head.weight", "output.weight", {o.vocab, o.hidden}, {}}, 0, 1);
}

const TinyTensor& TinyModel::tensor(const std::string& canonical) const {
  for (const TinyTensor& tensor : tensors_) {
    if (tensor.canonical == canonical) return tensor;
  }
  fail(ErrorCode::kNotFound, "tiny model: no tensor '{}'", canonical);
}

void TinyModel::write_tokenizer(const std::filesystem::path& folder, int32_t vocab,
                                int32_t max_context) {
  write_json(folder / "generation_config.json", generation_config_json());
  write_json(folder / "tokenizer.json", tokenizer_json(vocab));
  write_json(folder / "tokenizer_config.json", tokenizer_config_json(max_context));
}

void TinyModel::write_hugging_face(const std::filesystem::path& folder) const {
  const TinyModelOptions& o = options_;
  std::filesystem::create_directories(folder);
  write_json(folder / "config.json", config_json(o));
  write_tokenizer(folder, o.vocab, o.max_context);
  // Shard s holds tensors s, s + shards, ...: neighbours never share a file.
  std::vector<SafetensorsWriter> shards(static_cast<size_t>(o.shards));
  json weight_map;
  uint64_t total = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const size_t shard = i % shards.size();
    std::string data = encoded(tensors_[i].values, o.dtype);
    total += data.size();
    shards[shard].add_tensor(tensors_[i].hugging_face, std::string(dtype_name(o.dtype)),
                             tensors_[i].shape, std::move(data));
    weight_map[tensors_[i].hugging_face] =
        fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards.size());
  }
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    shards[shard].metadata["format"] = "pt";
    shards[shard].pad_header = true;
    shards[shard].write(
        folder / (shards.size() == 1
                      ? "model.safetensors"
                      : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards.size())));
  }
  if (shards.size() > 1) {
    write_json(folder / "model.safetensors.index.json",
               {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}});
  }
}

void TinyModel::add_tokenizer(GgufWriter& writer, int32_t vocab) {
  std::vector<int32_t> kinds(static_cast<size_t>(vocab), 1);                             // normal
  for (int32_t id : {kEndOfText, kImStart, kImEnd}) kinds[static_cast<size_t>(id)] = 3;  // control
  for (int32_t id = kImEnd + 1; id < vocab; ++id) kinds[static_cast<size_t>(id)] = 5;    // unused
  writer.add("tokenizer.ggml.model", "gpt2").add("tokenizer.ggml.pre", "gpt-2");
  writer.add("tokenizer.ggml.tokens", vocabulary(vocab)).add("tokenizer.ggml.token_type", kinds);
  writer.add("tokenizer.ggml.merges", std::vector<std::string>(kMerges.begin(), kMerges.end()));
  writer.add("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(kEndOfText));
  writer.add("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(kImEnd));
  writer.add("tokenizer.ggml.padding_token_id", static_cast<uint32_t>(kImEnd));
  writer.add("tokenizer.ggml.add_bos_token", false);
  writer.add("tokenizer.chat_template", chat_template());
}

GgufWriter TinyModel::gguf() const {
  const TinyModelOptions& o = options_;
  GgufWriter w;
  const auto count = [&](const char* key, int32_t value) {
    w.add(key, static_cast<uint32_t>(value));
  };
  w.add("general.architecture", "llama").add("general.name", "tiny");
  count("llama.block_count", o.layers);
  count("llama.context_length", o.max_context);
  count("llama.embedding_length", o.hidden);
  count("llama.feed_forward_length", o.ffn);
  count("llama.attention.head_count", o.heads);
  count("llama.attention.head_count_kv", o.kv_heads);
  count("llama.attention.key_length", o.head_dim);
  count("llama.attention.value_length", o.head_dim);
  count("llama.rope.dimension_count", o.head_dim);
  count("llama.vocab_size", o.vocab);
  w.add("llama.attention.layer_norm_rms_epsilon", static_cast<float>(o.norm_eps));
  w.add("llama.rope.freq_base", static_cast<float>(o.rope_base));
  if (o.rope_scaling == RopeScaling::kLinear) {
    w.add("llama.rope.scaling.type", "linear");
    w.add("llama.rope.scaling.factor", static_cast<float>(kLinearFactor));
  }
  add_tokenizer(w, o.vocab);
  if (o.rope_scaling == RopeScaling::kLlama3)
    w.add_tensor("rope_freqs.weight", DType::kF32, {o.head_dim / 2},
                 encoded(llama3_divisors(o), DType::kF32));
  for (const TinyTensor& tensor : tensors_) {
    const DType dtype = tensor.shape.size() == 1 ? DType::kF32 : o.dtype;
    w.add_tensor(tensor.gguf, dtype, tensor.shape,
                 encoded(tensor.rotated ? interleaved(tensor, o.head_dim) : tensor.values, dtype));
  }
  return w;
}

void TinyModel::write_gguf(const std::filesystem::path& path) const {
  gguf().write(path);
}

}  // namespace lowkey::test
