// Writes the binary seeds of the corpus anew, after a change of what they should hold:
//
//   write_fuzz_seeds tests/fuzz/corpus
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "support/gguf_writer.h"
#include "support/safetensors_writer.h"

namespace {

using lowkey::DType;
using lowkey::test::GgufWriter;
using lowkey::test::SafetensorsWriter;

void write_gguf(const std::filesystem::path& folder) {
  GgufWriter().write(folder / "empty");

  GgufWriter types;
  types.add("u8", uint8_t{1}).add("i8", int8_t{-1}).add("u16", uint16_t{2}).add("i16", int16_t{-2});
  types.add("u32", 3u).add("i32", -3).add("f32", 0.5f).add("bool", true).add("text", "größer");
  types.add("u64", uint64_t{4}).add("i64", int64_t{-4}).add("f64", 0.25);
  types.add("bytes", std::vector<uint8_t>{1, 2}).add("bools", std::vector<bool>{true, false});
  types.add("floats", std::vector<float>{1.0f}).add("words", std::vector<std::string>{"a", ""});
  types.write(folder / "types");

  GgufWriter tensors;
  tensors.alignment = 8;
  tensors.add("general.alignment", 8u);
  for (int i = 0; i <= static_cast<int>(DType::kQ6_K); ++i) {
    const auto dtype = static_cast<DType>(i);
    tensors.add_tensor(std::string(lowkey::dtype_name(dtype)), dtype,
                       {1, lowkey::dtype_block_elements(dtype)},
                       std::string(static_cast<size_t>(lowkey::dtype_block_bytes(dtype)), '\x21'));
  }
  tensors.write(folder / "tensors");

  GgufWriter vocab;
  vocab.add("general.architecture", "llama").add("tokenizer.ggml.model", "gpt2");
  vocab.add("tokenizer.ggml.pre", "gpt-2");
  vocab.add("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab", "<|im_end|>"});
  vocab.add("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 3});
  vocab.add("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
  vocab.add("tokenizer.ggml.eos_token_id", 3u).add("tokenizer.ggml.add_bos_token", false);
  vocab.write(folder / "gpt2_vocab");

  GgufWriter pieces;
  pieces.add("general.architecture", "llama").add("tokenizer.ggml.model", "llama");
  pieces.add("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "<0x41>", "▁a"});
  pieces.add("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 6, 1});
  pieces.add("tokenizer.ggml.scores", std::vector<float>{0.0f, 0.0f, 0.0f, -1.0f});
  pieces.add("tokenizer.ggml.bos_token_id", 1u).add("tokenizer.ggml.unknown_token_id", 0u);
  pieces.write(folder / "spm_vocab");

  // A configuration of each kind of key, over the vocabulary above.
  GgufWriter config = vocab;
  config.set("general.architecture", "gemma3").add("gemma3.block_count", 2u);
  config.add("gemma3.context_length", 64u).add("gemma3.embedding_length", 32u);
  config.add("gemma3.feed_forward_length", 48u).add("gemma3.attention.head_count", 4u);
  config.add("gemma3.attention.head_count_kv", 2u).add("gemma3.attention.key_length", 8u);
  config.add("gemma3.attention.layer_norm_rms_epsilon", 1e-6f);
  config.add("gemma3.attention.sliding_window", 8u);
  config.add("gemma3.attention.sliding_window_pattern", std::vector<bool>{true, false});
  config.add("gemma3.rope.freq_base", 1e6f).add("gemma3.rope.scaling.type", "yarn");
  config.add("gemma3.rope.scaling.factor", 4.0f);
  config.add("gemma3.rope.scaling.original_context_length", 16u);
  config.write(folder / "gemma3_config");

  GgufWriter experts = vocab;
  experts.add("llama.block_count", 1u).add("llama.context_length", 64u);
  experts.add("llama.embedding_length", 32u).add("llama.feed_forward_length", 48u);
  experts.add("llama.attention.head_count", 4u).add("llama.expert_count", 4u);
  experts.add("llama.expert_used_count", 2u).add("llama.attention.sliding_window", 8u);
  experts.add("llama.attention.layer_norm_rms_epsilon", 1e-6f);
  experts.write(folder / "experts_config");
}

void write_safetensors(const std::filesystem::path& folder) {
  SafetensorsWriter one;
  one.metadata["format"] = "pt";
  one.pad_header = true;
  one.add_tensor("a", "F32", {1, 2}, "12345678").add_tensor("b", "BF16", {3}, "123456");
  one.write(folder / "two_tensors");
  SafetensorsWriter kinds;
  kinds.add_tensor("scalar", "F16", {}, "12").add_tensor("none", "F32", {0, 7}, "");
  kinds.add_tensor("ids", "I64", {1}, "12345678").add_tensor("bits", "F4", {2, 2}, "ab");
  kinds.write(folder / "odd_shapes");
  SafetensorsWriter names;
  names.header = R"({"gr\u00f6\"":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}}   )";
  names.add_tensor("", "F32", {1}, "1234");
  names.write(folder / "escaped_name");
}

void write_prefix(const std::filesystem::path& folder) {
  SafetensorsWriter prefix;
  prefix.metadata = {{"lowkey_prefix", "1"},
                     {"model_sha256", std::string(64, 'a')},
                     {"tokenizer_sha256", std::string(64, '0')},
                     {"tokens", "[1, 250]"},
                     {"name", "two"}};
  for (const char* name : {"layers.0.k", "layers.0.v", "layers.1.k", "layers.1.v"}) {
    prefix.add_tensor(name, "F16", {2, 1, 2}, "12345678");
  }
  prefix.add_tensor("hidden", "F32", {1}, "1234");
  prefix.write(folder / "two_layers");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
    return 2;
  }
  const std::filesystem::path corpus = argv[1];
  std::filesystem::create_directories(corpus / "gguf");
  std::filesystem::create_directories(corpus / "safetensors");
  std::filesystem::create_directories(corpus / "prefix");
  write_gguf(corpus / "gguf");
  write_safetensors(corpus / "safetensors");
  write_prefix(corpus / "prefix");
  return 0;
}
