#include "load/tokenizer_from_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "load/byte_alphabet.h"
#include "load/pre_tokenizers.h"
#include "load/tokenizer.h"
#include "support/gguf_writer.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using nlohmann::json;
using test::GgufWriter;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

template <typename Read>
std::string refusal(Read&& read) {
  try {
    const Tokenizer tokenizer(read());
  } catch (const Error& e) {
    return std::string(error_code_name(e.code())) + ": " + e.what();
  }
  return "accepted";
}

std::string corrupt(const std::string& rest) {
  return std::string(error_code_name(ErrorCode::kCorruptFile)) + ": " + rest;
}
std::string unsupported(const std::string& rest) {
  return std::string(error_code_name(ErrorCode::kUnsupported)) + ": " + rest;
}

// ---- GGUF

std::vector<std::string> byte_tokens() {
  return {byte_alphabet().begin(), byte_alphabet().end()};
}

// 256 bytes, "th", "<|im_end|>".
GgufWriter good_gguf() {
  std::vector<std::string> tokens = byte_tokens();
  tokens.insert(tokens.end(), {"th", "<|im_end|>"});
  std::vector<int32_t> types(258, 1);
  types[257] = 3;
  GgufWriter w;
  w.add("general.architecture", "llama").add("tokenizer.ggml.model", "gpt2");
  w.add("tokenizer.ggml.pre", "smollm").add("tokenizer.ggml.tokens", tokens);
  w.add("tokenizer.ggml.token_type", types);
  w.add("tokenizer.ggml.merges", std::vector<std::string>{"t h"});
  w.add("tokenizer.ggml.bos_token_id", uint32_t{257});
  w.add("tokenizer.ggml.eos_token_id", uint32_t{0});
  return w;
}

TokenizerSpec read_gguf(const GgufWriter& writer) {
  const std::string bytes = writer.bytes();
  return tokenizer_spec_from_gguf(GgufFile::parse(std::as_bytes(std::span(bytes)), "x.gguf"));
}

template <typename Change>
std::string gguf_refusal(Change&& change) {
  GgufWriter writer = good_gguf();
  change(writer);
  return refusal([&] { return read_gguf(writer); });
}

TEST(TokenizerFromGguf, ReadsWhatTheFileSays) {
  const TokenizerSpec spec = read_gguf(good_gguf());
  EXPECT_EQ(spec.kind, TokenizerKind::kByteLevelBpe);
  EXPECT_EQ(spec.pre_tokenizer, "smollm");
  EXPECT_EQ(spec.pre_steps.size(), 2u);
  EXPECT_EQ(spec.bos, 257);
  EXPECT_EQ(spec.eos, 0);
  EXPECT_EQ(spec.unk, -1);
  EXPECT_FALSE(spec.add_bos);
  // The eos the file names, and the one its text gives away.
  EXPECT_THAT(spec.end_of_generation, ElementsAre(0, 257));
}

TEST(TokenizerFromGguf, PreTokenizersBringTheirDefaults) {
  const auto with_pre = [](const char* name) {
    return read_gguf(good_gguf().set("tokenizer.ggml.pre", name));
  };
  EXPECT_TRUE(with_pre("llama-bpe").ignore_merges);
  EXPECT_TRUE(with_pre("llama-bpe").add_bos);
  EXPECT_FALSE(read_gguf(good_gguf()
                             .set("tokenizer.ggml.pre", "llama3")
                             .add("tokenizer.ggml.add_bos_token", false))
                   .add_bos);
  ASSERT_EQ(with_pre("qwen2").normalizer.size(), 1u);
  EXPECT_EQ(with_pre("qwen2").normalizer[0].kind, NormalizerStep::Kind::kNfc);
  EXPECT_EQ(with_pre("default").pre_steps.size(), 4u);
  EXPECT_EQ(read_gguf(good_gguf().remove("tokenizer.ggml.pre")).pre_tokenizer, "default");
}

TEST(TokenizerFromGguf, BadFilesAreRefusedByKey) {
  EXPECT_EQ(gguf_refusal([](auto&) {}), "accepted");
  EXPECT_THAT(gguf_refusal([](auto& w) { w.remove("tokenizer.ggml.tokens"); }),
              HasSubstr("x.gguf: no tokenizer in this file"));
  EXPECT_THAT(
      gguf_refusal([](auto& w) { w.set("tokenizer.ggml.model", "bert"); }),
      unsupported("x.gguf: tokenizer.ggml.model 'bert' is not supported; known: gpt2, llama"));
  EXPECT_THAT(
      gguf_refusal([](auto& w) { w.set("tokenizer.ggml.pre", "afmoe"); }),
      StartsWith(unsupported("pre-tokenizer 'afmoe' (tokenizer.ggml.pre) is not supported")));
  EXPECT_THAT(
      gguf_refusal([](auto& w) { w.set("tokenizer.ggml.token_type", std::vector<int32_t>{1}); }),
      corrupt("x.gguf: tokenizer.ggml.token_type: 1 entries for a vocabulary of 258 tokens"));
  EXPECT_THAT(gguf_refusal([](auto& w) {
                w.set("tokenizer.ggml.token_type", std::vector<int32_t>(258, 9));
              }),
              corrupt("x.gguf: tokenizer.ggml.token_type: token 0 has type 9, not 1 to 6"));
  EXPECT_THAT(gguf_refusal([](auto& w) { w.set("tokenizer.ggml.token_type", "x"); }),
              HasSubstr("not an array of integers"));
  for (const auto& [merge, message] : std::vector<std::pair<std::string, std::string>>{
           {"th", "merge 0 is 'th', not two tokens"},
           {"t ", "merge 0 is 't ', not two tokens"},
           {"t hh", "merge 0 is 't hh', but 'hh' is not a token"},
           {"tt h", "merge 0 is 'tt h', but 'tt' is not a token"}}) {
    EXPECT_EQ(gguf_refusal([&m = merge](auto& w) {
                w.set("tokenizer.ggml.merges", std::vector<std::string>{m});
              }),
              corrupt("x.gguf: tokenizer.ggml.merges: " + message));
  }
  EXPECT_THAT(gguf_refusal(
                  [](auto& w) { w.set("tokenizer.ggml.merges", std::vector<std::string>{"t t"}); }),
              HasSubstr("merge 0 makes 'tt', which is no token"));
  EXPECT_THAT(gguf_refusal([](auto& w) { w.set("tokenizer.ggml.eos_token_id", uint32_t{258}); }),
              corrupt("x.gguf: tokenizer.ggml.eos_token_id: token 258 of a vocabulary of 258"));
  EXPECT_THAT(
      gguf_refusal([](auto& w) { w.set("tokenizer.ggml.bos_token_id", uint64_t{1} << 40); }),
      HasSubstr("tokenizer.ggml.bos_token_id"));
  EXPECT_THAT(gguf_refusal([](auto& w) {
                w.remove("tokenizer.ggml.bos_token_id").add("tokenizer.ggml.add_bos_token", true);
              }),
              HasSubstr("asks for a bos token and names none"));
  EXPECT_THAT(gguf_refusal([](auto& w) { w.set("tokenizer.ggml.model", "llama"); }),
              AnyOf(HasSubstr("tokenizer.ggml.pre 'smollm'"), HasSubstr("tokenizer.ggml.scores")));
}

// ---- Hugging Face

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

json good_json() {
  json vocab = json::object();
  for (const std::string& token : byte_tokens()) vocab[token] = vocab.size();
  vocab["th"] = 256;
  return {{"version", "1.0"},
          {"added_tokens",
           {{{"id", 257}, {"content", "<|im_end|>"}, {"special", true}, {"normalized", false}},
            {{"id", 258}, {"content", "<tool>"}, {"special", false}, {"normalized", false}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single", {{{"SpecialToken", {{"id", "<|im_end|>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
            {"special_tokens", {{"<|im_end|>", {{"ids", {257}}}}}}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"t h"}}}}};
}

class HfFolder {
 public:
  explicit HfFolder(const json& tokenizer) { write("tokenizer.json", tokenizer.dump()); }
  void write(const std::string& name, const std::string& text) const {
    write_text(folder_ / name, text);
  }
  TokenizerSpec read() const { return tokenizer_spec_from_hf(folder_.path()); }

 private:
  test::TempDir folder_;
};

TokenizerSpec read_json(const json& tokenizer) {
  return HfFolder(tokenizer).read();
}

TEST(TokenizerFromHf, ReadsWhatTheFilesSay) {
  HfFolder folder(good_json());
  TokenizerSpec spec = folder.read();
  EXPECT_EQ(spec.tokens.size(), 259u);
  EXPECT_EQ(spec.token_kinds[257], TokenKind::kControl);
  EXPECT_EQ(spec.token_kinds[258], TokenKind::kUserDefined);
  EXPECT_TRUE(spec.add_bos);
  EXPECT_EQ(spec.bos, 257);
  EXPECT_EQ(spec.eos, -1);
  folder.write(
      "tokenizer_config.json",
      R"({"eos_token": {"content": "<|im_end|>"}, "pad_token": "<tool>", "unk_token": null})");
  folder.write("generation_config.json", R"({"eos_token_id": [256, 257]})");
  spec = folder.read();
  EXPECT_EQ(spec.eos, 257);
  EXPECT_EQ(spec.pad, 258);
  EXPECT_THAT(spec.end_of_generation, ElementsAre(256, 257));
  const Tokenizer tokenizer(std::move(spec));
  EXPECT_THAT(tokenizer.encode("th<tool>", SpecialTokens::kIgnore, true),
              ElementsAre(257, 256, 258));
}

TEST(TokenizerFromHf, MergesAsStringsOrPairs) {
  json pairs = good_json();
  pairs["model"]["merges"] = json::array({json::array({"t", "h"})});
  EXPECT_EQ(read_json(pairs).merges.size(), 1u);
  EXPECT_EQ(read_json(pairs).merges[0].left, read_json(good_json()).merges[0].left);
}

std::vector<std::string> pieces_of(const TokenizerSpec& spec, const std::string& text) {
  const PieceText cut = PreTokenizer(spec.pre_steps).split(text, true);
  std::vector<std::string> pieces;
  for (const PieceText::Piece& piece : cut.pieces) pieces.emplace_back(cut.view(piece));
  return pieces;
}

// Falcon's: digits are cut off after ByteLevel, where "²" is also the second byte of "ò" and of
// itself. The pieces are those of tokenizers' pre_tokenize_str.
TEST(TokenizerFromHf, StepsAfterByteLevelSeeBytes) {
  json tokenizer = good_json();
  tokenizer["pre_tokenizer"] = json::parse(R"({"type": "Sequence", "pretokenizers": [
    {"type": "Punctuation", "behavior": "Contiguous"},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    {"type": "Digits", "individual_digits": false},
    {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated",
     "invert": false}]})");
  TokenizerSpec from_gguf;
  from_gguf.pre_steps = named_pre_tokenizer("falcon").steps;
  for (const TokenizerSpec& spec : {read_json(tokenizer), from_gguf}) {
    EXPECT_THAT(pieces_of(spec, "Hello, world!! 12345"),
                ElementsAre("Hello", ",", " world", "!!", " ", "123", "45"));
    EXPECT_THAT(
        pieces_of(spec, " ò12 x²³ ½"),
        ElementsAre(" \xc3", "\xb2", "12", " x", "\xc2", "\xb2", "\xc2", "\xb3", " \xc2", "\xbd"));
    EXPECT_THAT(pieces_of(spec, "a--b `c` ٣٤ 1  3"),
                ElementsAre("a", "--", "b", " ", "`", "c", "`", " ٣٤", " ", "1", " ", " ", "3"));
    EXPECT_THAT(pieces_of(spec,
                          "$5.00\xff"
                          "42"),
                ElementsAre("$", "5", ".", "00", "\xff", "42"));
  }
  // Bytes of a character that was cut still merge with what they stand beside.
  tokenizer["model"]["vocab"]["ĠÃ"] = 259;
  tokenizer["model"]["merges"] = {"t h", "Ġ Ã"};
  const Tokenizer cut(read_json(tokenizer));
  EXPECT_THAT(cut.encode(" ò", SpecialTokens::kIgnore, false),
              ElementsAre(259, cut.encode("\xb2", SpecialTokens::kIgnore, false)[0]));
  EXPECT_EQ(cut.decode(cut.encode("ò² 12", SpecialTokens::kIgnore, false)), "ò² 12");

  tokenizer["pre_tokenizer"]["pretokenizers"][0].erase("behavior");
  EXPECT_THAT(pieces_of(read_json(tokenizer), "a--b"), ElementsAre("a", "-", "-", "b"));
}

// Applies a JSON patch and says how the result is refused.
std::string hf_refusal(const char* pointer, json value) {
  json tokenizer = good_json();
  tokenizer[json::json_pointer(pointer)] = std::move(value);
  return refusal([&] { return read_json(tokenizer); });
}

TEST(TokenizerFromHf, WhatIsNotKnownIsRefusedByName) {
  const std::vector<std::tuple<const char*, json, std::string>> cases = {
      {"/model/type", "WordPiece", "model 'WordPiece'"},
      {"/model/dropout", 0.1, "model BPE with dropout"},
      {"/model/end_of_word_suffix", "</w>", "model BPE with end_of_word_suffix"},
      {"/normalizer", {{"type", "NFKC"}}, "normalizer 'NFKC'"},
      {"/normalizer",
       {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}, {"content", ""}},
       "normalizer Replace with anything but a String pattern"},
      {"/pre_tokenizer", {{"type", "BertPreTokenizer"}}, "pre-tokenizer 'BertPreTokenizer'"},
      {"/pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Metaspace"}}}}},
       "pre-tokenizer 'Metaspace' after ByteLevel"},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"String", "x"}}}, {"behavior", "Sideways"}},
       "pre-tokenizer Split with behavior 'Sideways'"},
      {"/pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "_"}},
       "Metaspace with a replacement other than U+2581"},
      {"/pre_tokenizer", nullptr, "decoder 'ByteLevel' with this pre-tokenizer"},
      {"/decoder", {{"type", "WordPiece"}}, "decoder 'WordPiece' with this pre-tokenizer"},
      {"/decoder", nullptr, "ByteLevel pre-tokenizer without ByteLevel decoder"},
      {"/post_processor", {{"type", "BertProcessing"}}, "post-processor 'BertProcessing'"},
      {"/added_tokens/0/single_word", true, "added token '<|im_end|>' with single_word"},
  };
  for (const auto& [pointer, value, message] : cases) {
    EXPECT_THAT(hf_refusal(pointer, value),
                AllOf(StartsWith(error_code_name(ErrorCode::kUnsupported)),
                      HasSubstr("tokenizer.json: " + message + " is not supported")))
        << pointer;
  }
}

TEST(TokenizerFromHf, BadFilesAreRefused) {
  const std::vector<std::tuple<const char*, json, std::string>> cases = {
      {"/model", 5, "model is not an object"},
      {"/model/vocab", json::array(), "'model.vocab' is not an object"},
      {"/model/vocab/th", -1, "the id of token 'th' is not an integer"},
      {"/model/vocab/th", 1.5, "the id of token 'th' is not an integer"},
      {"/model/vocab/th", "x", "the id of token 'th' is not an integer"},
      {"/model/vocab/th", 1 << 23, "token 'th' has id 8388608, far beyond the"},
      {"/model/vocab/th", 3, "both have id 3"},
      {"/model/merges", {"t"}, "merge 0 is 't', not two tokens"},
      {"/model/merges", {"t h h"}, "merge 0 is 't h h', not two tokens"},
      {"/model/merges", {"t xx"}, "merge 0 names 'xx', which is no token"},
      {"/model/merges", json::array({json::array({"t"})}),
       "merge 0 is neither a string nor a pair"},
      {"/model/merges", "t h", "'merges' is not a list"},
      {"/added_tokens", 5, "'added_tokens' is not a list"},
      {"/added_tokens/0", 5, "an added token is not an object"},
      {"/added_tokens/0/content", "", "an added token has no content"},
      {"/added_tokens/0/id", 3, "both have id 3"},
      {"/added_tokens/0/special", "yes", "'special' is not true or false"},
      {"/pre_tokenizer/type", 5, "'type' is not a string"},
      {"/post_processor/single", {5}, "neither Sequence nor SpecialToken"},
      {"/post_processor/special_tokens", json::object(), "TemplateProcessing names '<|im_end|>'"},
      {"/post_processor/special_tokens/<|im_end|>/ids", {999}, "is beyond the vocabulary"},
  };
  for (const auto& [pointer, value, message] : cases) {
    EXPECT_THAT(hf_refusal(pointer, value),
                AllOf(StartsWith(error_code_name(ErrorCode::kCorruptFile)),
                      HasSubstr("tokenizer.json: "), HasSubstr(message)))
        << pointer;
  }
  const test::TempDir empty;
  EXPECT_THAT(refusal([&] { return tokenizer_spec_from_hf(empty.path()); }),
              StartsWith(error_code_name(ErrorCode::kNotFound)));
}

TEST(TokenizerFromHf, TruncatedAnywhereIsAnError) {
  const std::string text = good_json().dump();
  const test::TempDir folder;
  for (size_t n = 0; n < text.size(); n += 7) {
    write_text(folder / "tokenizer.json", text.substr(0, n));
    EXPECT_THAT(refusal([&] { return tokenizer_spec_from_hf(folder.path()); }),
                StartsWith(error_code_name(ErrorCode::kCorruptFile)))
        << n;
  }
}

}  // namespace
}  // namespace lowkey
