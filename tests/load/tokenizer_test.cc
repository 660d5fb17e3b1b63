#include "load/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/rng.h"
#include "load/byte_alphabet.h"
#include "load/gguf.h"
#include "load/tokenizer_from_file.h"
#include "load/utf8.h"
#include "support/cpu_clock.h"
#include "support/paths.h"
#include "support/tokenizer_specs.h"

namespace lowkey {
namespace {

using nlohmann::json;
using test::small_byte_level_spec;
using test::small_sentencepiece_spec;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int32_t> plain(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, SpecialTokens::kIgnore, false);
}
std::vector<int32_t> parsed(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, SpecialTokens::kParse, false);
}

// The tokens' own texts, for readable expectations.
std::vector<std::string> texts(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::vector<std::string> out;
  for (const int32_t id : ids) out.push_back(tokenizer.spec().tokens[static_cast<size_t>(id)]);
  return out;
}

// ---- against Hugging Face, without it: tools/tokenizer_parity.py golden

uint64_t fnv1a(const std::vector<int32_t>& ids, uint64_t value) {
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ (static_cast<uint32_t>(id) >> shift & 0xff)) * 0x100000001b3;
    }
  }
  return value;
}

// As hashes() of the tool.
std::string hash_of(const Tokenizer& tokenizer, const std::string& text) {
  uint64_t value = fnv1a(tokenizer.encode(text, SpecialTokens::kParse, true), 0xcbf29ce484222325);
  value = fnv1a({-1}, value);
  value = fnv1a(tokenizer.encode(text, SpecialTokens::kIgnore, true), value);
  return fmt::format("{:016x}", value);
}

const json& golden() {
  static const json file = json::parse(read_file(test::golden("tokenizers.json")));
  return file;
}

void check_hashes(const Tokenizer& tokenizer, const json& hashes) {
  const json& strings = golden().at("texts");
  ASSERT_EQ(strings.size(), 250u);
  ASSERT_EQ(hashes.size(), strings.size());
  for (size_t i = 0; i < strings.size(); ++i) {
    const auto text = strings[i].get<std::string>();
    EXPECT_EQ(hash_of(tokenizer, text), hashes[i])
        << "text " << i << ": " << strings[i].dump(-1, ' ', true) << " gives "
        << ::testing::PrintToString(parsed(tokenizer, text));
  }
}

TEST(TokenizerGolden, HuggingFacePipelines) {
  ASSERT_EQ(golden().at("cases").size(), 11u);
  for (const json& entry : golden().at("cases")) {
    SCOPED_TRACE(entry.at("name").get<std::string>());
    const test::TempDir folder;
    write_file_atomically(folder / "tokenizer.json", entry.at("tokenizer").dump());
    check_hashes(Tokenizer(tokenizer_spec_from_hf(folder.path())), entry.at("hashes"));
  }
}

TEST(TokenizerGolden, RealModel) {
  const auto model = test::real_model();
  if (!model) GTEST_SKIP() << "no SmolLM2 GGUF: ./dev setup fetches it";
  const Tokenizer tokenizer(tokenizer_spec_from_gguf(GgufFile::open(*model)));
  check_hashes(tokenizer, golden().at("SmolLM2"));
  EXPECT_EQ(tokenizer.vocab_size(), 49152);
  EXPECT_EQ(tokenizer.find("<|im_end|>"), 2);
  EXPECT_TRUE(tokenizer.is_end_of_generation(2));
  EXPECT_TRUE(tokenizer.is_control(1));
  EXPECT_FALSE(tokenizer.is_control(100));
}

// ---- byte-level

TEST(ByteLevel, MergesByRankInsidePieces) {
  const Tokenizer tokenizer(small_byte_level_spec());
  EXPECT_THAT(texts(tokenizer, plain(tokenizer, "the theme")),
              ElementsAre("the", "\u0120the", "m", "e"));
  // "th" comes before "he": the best rank wins, not the leftmost pair.
  EXPECT_THAT(texts(tokenizer, plain(tokenizer, "thhe")), ElementsAre("th", "he"));
}

TEST(ByteLevel, WholePiecesSkipTheMergesIfTheFileSaysSo) {
  TokenizerSpec spec = small_byte_level_spec();
  test::add_token(spec, "zzz", TokenKind::kNormal);  // no merge leads to it
  EXPECT_THAT(plain(Tokenizer(spec), "zzz").size(), 3u);
  spec.ignore_merges = true;
  const Tokenizer tokenizer(std::move(spec));
  EXPECT_THAT(texts(tokenizer, plain(tokenizer, "zzz")), ElementsAre("zzz"));
  EXPECT_THAT(plain(tokenizer, "zzzz").size(), 4u);
}

TEST(ByteLevel, BytesWithoutTokensAreLeftOut) {
  TokenizerSpec spec = small_byte_level_spec();
  spec.tokens[0xc3] = "no longer C3";
  spec.tokens[0xa9] = "no longer A9";
  const Tokenizer tokenizer(std::move(spec));
  EXPECT_EQ(tokenizer.decode(plain(tokenizer, "a\u00e9b")), "ab");
  EXPECT_THAT(texts(tokenizer, plain(tokenizer, "t\u00e9he")), ElementsAre("the"));
  EXPECT_EQ(tokenizer.decode(plain(tokenizer, "a\xc3")), "a");
}

// ---- the property: what goes in comes out (but "\u2581", which is how SentencePiece writes a
// space)

std::string random_text(SplitMix64& rng) {
  static const std::vector<std::string> parts = {
      "a",      " ",         "  ",           "\n",
      "\u00e9", "e\u0301",   "\u6f22\u5b57", "\U0001f468\u200d\U0001f469",
      "1 2",    "the theme", "'S",           "<|end|>",
      "<s>",    "</s>",      "\u0120",       "<0x0A>",
      "\t\t",   "."};
  std::string out;
  for (uint64_t n = rng.below(24); n > 0; --n) {
    if (rng.below(3) == 0) {
      auto c = static_cast<char32_t>(rng.below(0x110000));
      if ((c >= 0xd800 && c < 0xe000) || c == 0x2581) c = '?';
      utf8_append(out, c);
    } else {
      out += parts[rng.below(parts.size())];
    }
  }
  return out;
}

std::string random_bytes(SplitMix64& rng) {
  std::string out = random_text(rng);
  for (uint64_t n = rng.below(6); n > 0; --n) {
    out.insert(rng.below(out.size() + 1), 1, static_cast<char>(rng.below(256)));
  }
  return out;
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string out;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_TRUE(is_valid_utf8(part));
    out += part;
  }
  return out + decoder.finish();
}

void check_round_trips(const Tokenizer& tokenizer) {
  SplitMix64 rng(7);
  for (int i = 0; i < 4000; ++i) {
    const std::string text = i % 2 == 0 ? random_text(rng) : random_bytes(rng);
    const std::vector<int32_t> ids = plain(tokenizer, text);
    ASSERT_EQ(tokenizer.decode(ids), text) << ::testing::PrintToString(text);
    ASSERT_EQ(streamed(tokenizer, ids), utf8_replace_invalid(text));
    for (const int32_t id : ids) ASSERT_FALSE(tokenizer.is_control(id));
  }
}

TEST(RoundTrip, ByteLevel) {
  check_round_trips(Tokenizer(small_byte_level_spec()));
}
TEST(RoundTrip, SentencePiece) {
  check_round_trips(Tokenizer(small_sentencepiece_spec()));
}
TEST(RoundTrip, MergesWithByteFallback) {
  check_round_trips(Tokenizer(test::small_fallback_spec()));
}

class RealVocabularies : public ::testing::TestWithParam<const char*> {};
TEST_P(RealVocabularies, RoundTrip) {
  const std::string name = "tokenizer/ggml-vocab-" + std::string(GetParam()) + ".gguf";
  const auto file = test::shared_data(name);
  if (!file) GTEST_SKIP() << "the shared data has no " << name;
  const Tokenizer tokenizer(tokenizer_spec_from_gguf(GgufFile::open(*file)));
  SplitMix64 rng(11);
  for (int i = 0; i < 1000; ++i) {
    const std::string text = random_text(rng);
    ASSERT_EQ(tokenizer.decode(plain(tokenizer, text)), text) << ::testing::PrintToString(text);
  }
}
// Not phi-3: there "</s>" is a user-defined token, and llama.cpp's space after those is not undone.
INSTANTIATE_TEST_SUITE_P(All, RealVocabularies,
                         ::testing::Values("gpt-2", "gpt-neox", "llama-spm"));

// ---- SentencePiece

TEST(SentencePiece, BestScoreFirst) {
  const Tokenizer tokenizer(small_sentencepiece_spec());
  EXPECT_THAT(texts(tokenizer, plain(tokenizer, "the")), ElementsAre("\u2581the"));
  EXPECT_THAT(texts(tokenizer, plain(tokenizer, "then")), ElementsAre("\u2581the", "n"));
}

TEST(SentencePiece, UnknownCharactersFallBackToBytes) {
  const Tokenizer tokenizer(small_sentencepiece_spec());
  EXPECT_THAT(texts(tokenizer, plain(tokenizer, "\u00e9")),
              ElementsAre("\u2581", "<0xC3>", "<0xA9>"));
}

TEST(SentencePiece, SpaceBeforeEveryStretchOfText) {
  const Tokenizer tokenizer(small_sentencepiece_spec());
  EXPECT_THAT(texts(tokenizer, parsed(tokenizer, "the<s>the")),
              ElementsAre("\u2581the", "<s>", "\u2581the"));
  EXPECT_THAT(texts(tokenizer, parsed(tokenizer, "the<tool>the")),
              ElementsAre("\u2581the", "<tool>", "\u2581the"));
  EXPECT_THAT(plain(tokenizer, ""), ElementsAre());
  // Only the first printed token gives its space back.
  EXPECT_EQ(tokenizer.decode(parsed(tokenizer, "<s>the")), "the");
  EXPECT_EQ(tokenizer.decode(parsed(tokenizer, "<s>the"), true), "<s> the");
  EXPECT_EQ(tokenizer.decode(plain(tokenizer, "  the")), "  the");
}

TEST(SentencePiece, TextNeverMergesIntoControlTokens) {
  TokenizerSpec spec = small_sentencepiece_spec();
  // "<s" and "s>" are tokens, and "<s>" has the best score of all: the merge would be there.
  test::add_token(spec, "<s", TokenKind::kNormal, 5.0f);
  test::add_token(spec, "s>", TokenKind::kNormal, 5.0f);
  spec.scores[static_cast<size_t>(spec.bos)] = 100.0f;
  const Tokenizer tokenizer(std::move(spec));
  EXPECT_THAT(texts(tokenizer, plain(tokenizer, "<s>")), ElementsAre("\u2581", "<s", "<0x3E>"));
}

// ---- added tokens

TEST(AddedTokens, ParsedOnlyWhereAsked) {
  const Tokenizer tokenizer(small_byte_level_spec());
  const int32_t end = tokenizer.find("<|end|>");
  EXPECT_THAT(parsed(tokenizer, "<|end|>"), ElementsAre(end));
  EXPECT_THAT(plain(tokenizer, "<|end|>"), ::testing::Not(::testing::Contains(end)));
  EXPECT_EQ(tokenizer.decode(plain(tokenizer, "<|end|>")), "<|end|>");
  // User-defined tokens always count.
  EXPECT_THAT(plain(tokenizer, "<tool>"), ElementsAre(tokenizer.find("<tool>")));
}

TEST(AddedTokens, LeftmostThenLongest) {
  TokenizerSpec spec = small_byte_level_spec();
  for (const char* text : {"<|en", "<|end|>>", "nd|>x"}) {
    test::add_token(spec, text, TokenKind::kControl);
  }
  const Tokenizer tokenizer(std::move(spec));
  EXPECT_THAT(texts(tokenizer, parsed(tokenizer, "<|end|>x")), ElementsAre("<|end|>", "x"));
  EXPECT_THAT(texts(tokenizer, parsed(tokenizer, "<|end|>>")), ElementsAre("<|end|>>"));
  EXPECT_THAT(texts(tokenizer, parsed(tokenizer, "<|enx")), ElementsAre("<|en", "x"));
}

TEST(AddedTokens, StripTheWhiteSpaceTheySay) {
  TokenizerSpec spec = small_byte_level_spec();
  test::add_token(spec, "<left>", TokenKind::kControl);
  spec.added.back().lstrip = true;
  test::add_token(spec, "<right>", TokenKind::kControl);
  spec.added.back().rstrip = true;
  const Tokenizer tokenizer(std::move(spec));
  EXPECT_THAT(texts(tokenizer, parsed(tokenizer, "a \n\u00a0<left> b")),
              ElementsAre("a", "<left>", "\u0120", "b"));
  EXPECT_THAT(texts(tokenizer, parsed(tokenizer, "a <right> \n\u3000b")),
              ElementsAre("a", "\u0120", "<right>", "b"));
  EXPECT_THAT(texts(tokenizer, parsed(tokenizer, "<right>  <left>")),
              ElementsAre("<right>", "<left>"));
}

TEST(AddedTokens, PromptsTrustOnlyTheTemplate) {
  const Tokenizer tokenizer(small_byte_level_spec());
  const int32_t end = tokenizer.find("<|end|>");
  const auto count = [&](const std::vector<PromptPiece>& prompt) {
    const std::vector<int32_t> ids = tokenizer.encode(prompt, false);
    std::string text;
    for (const PromptPiece& piece : prompt) text += piece.text;
    EXPECT_EQ(tokenizer.decode(ids, true), text);
    return std::count(ids.begin(), ids.end(), end);
  };
  EXPECT_EQ(count({{"<|end|>", true}, {"<|end|>", false}, {"<|end|>", true}}), 2);
  EXPECT_EQ(count({{"<|e", true}, {"nd|>", true}}), 1);   // one author, one token
  EXPECT_EQ(count({{"<|e", true}, {"nd|>", false}}), 0);  // two authors: none
  EXPECT_EQ(count({{"<|end|", false}, {">", true}}), 0);
  EXPECT_EQ(count({{"<|", true}, {"", false}, {"end|>", true}}), 1);
}

TEST(AddedTokens, PromptsMergeAcrossPieces) {
  const Tokenizer tokenizer(small_byte_level_spec());
  const std::vector<PromptPiece> prompt = {{"t", true}, {"h", false}, {"e", true}};
  EXPECT_THAT(texts(tokenizer, tokenizer.encode(prompt, false)), ElementsAre("the"));
}

TEST(Specials, BosAndEosAsTheFileAsks) {
  TokenizerSpec spec = small_byte_level_spec();
  spec.bos = spec.eos = spec.added[0].id;
  const auto encode = [](const TokenizerSpec& s, bool add_special) {
    return Tokenizer(s).encode("the", SpecialTokens::kIgnore, add_special).size();
  };
  EXPECT_EQ(encode(spec, true), 1u);
  spec.add_bos = true;
  EXPECT_EQ(encode(spec, true), 2u);
  EXPECT_EQ(encode(spec, false), 1u);
  spec.add_eos = true;
  EXPECT_EQ(encode(spec, true), 3u);
}

TEST(Decoding, ControlTokensPrintAsNothingUnlessShown) {
  const Tokenizer tokenizer(small_byte_level_spec());
  const std::vector<int32_t> ids = parsed(tokenizer, "the<|end|>the<tool>");
  EXPECT_EQ(tokenizer.decode(ids), "thethe<tool>");
  EXPECT_EQ(tokenizer.decode(ids, true), "the<|end|>the<tool>");
  EXPECT_EQ(streamed(tokenizer, ids), "thethe<tool>");
}

TEST(Decoding, StreamsHoldBackUnfinishedCharacters) {
  const Tokenizer tokenizer(small_byte_level_spec());
  const std::vector<int32_t> ids = plain(tokenizer, "\U0001f600!");
  ASSERT_EQ(ids.size(), 5u);
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.push(ids[1]), "");
  EXPECT_EQ(decoder.push(ids[2]), "");
  EXPECT_EQ(decoder.push(ids[3]), "\U0001f600");
  EXPECT_EQ(decoder.push(ids[4]), "!");
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.finish(), "\ufffd");
  EXPECT_EQ(decoder.finish(), "");
}

// ---- bad vocabularies

std::string refusal(const TokenizerSpec& spec) {
  try {
    const Tokenizer tokenizer(spec);
  } catch (const Error& e) {
    return std::string(error_code_name(e.code())) + ": " + e.what();
  }
  return "accepted";
}

template <typename Change>
std::string refusal_after(Change&& change) {
  TokenizerSpec spec = small_byte_level_spec();
  change(spec);
  return refusal(spec);
}

TEST(BadVocabulary, IsRefusedBySayingWhat) {
  const std::string corrupt = error_code_name(ErrorCode::kCorruptFile);
  const auto says = [&](const std::string& what) {
    return HasSubstr(corrupt + ": tokenizer: " + what);
  };
  EXPECT_EQ(refusal(small_byte_level_spec()), "accepted");
  EXPECT_THAT(refusal(TokenizerSpec()), says("the vocabulary is empty"));
  EXPECT_THAT(refusal_after([](auto& s) { s.token_kinds.pop_back(); }),
              says("268 tokens, but 267"));
  EXPECT_THAT(refusal_after([](auto& s) { s.tokens[7] = "\xff"; }),
              says("the text of token 7 is not valid UTF-8"));
  EXPECT_THAT(refusal_after([](auto& s) { s.tokens[7] = s.tokens[3]; }),
              says("tokens 3 and 7 are both"));
  EXPECT_THAT(refusal_after([](auto& s) {
                s.merges.push_back({0, 99999});
              }),
              says("merge 8 joins ids 0 and 99999"));
  EXPECT_THAT(refusal_after([](auto& s) { s.merges.push_back({-1, 0}); }), says("merge 8 joins"));
  EXPECT_THAT(refusal_after([](auto& s) { s.merges.push_back({90, 91}); }), says("merge 8 makes"));
  EXPECT_THAT(refusal_after([](auto& s) { s.bos = 99999; }), says("the bos token is 99999"));
  EXPECT_THAT(refusal_after([](auto& s) { s.eos = -2; }), says("the eos token is -2"));
  EXPECT_THAT(refusal_after([](auto& s) { s.end_of_generation = {99999}; }),
              says("the end-of-generation token is 99999"));
  EXPECT_THAT(refusal_after([](auto& s) { s.add_bos = true; }), says("asks for a bos token"));
  EXPECT_THAT(refusal_after([](auto& s) { s.added.push_back({.id = 99999}); }),
              says("the added token is 99999"));
  EXPECT_THAT(refusal_after([](auto& s) { s.pre_steps[0].pattern = "("; }),
              HasSubstr("pre-tokenizer pattern '(': missing closing parenthesis"));
  for (const char* pattern : {"\\w+", "a\\b", "[[:alpha:]]", "[a&&b]", "[a[b]]", "\\h", "a\\"}) {
    EXPECT_THAT(refusal_after([&](auto& s) { s.pre_steps[0].pattern = pattern; }),
                HasSubstr("pre-tokenizer pattern"))
        << pattern;
  }

  TokenizerSpec scored = small_sentencepiece_spec();
  scored.scores[3] = std::nanf("");
  EXPECT_THAT(refusal(scored), says("the score of token 3 is not a number"));
  scored.scores.pop_back();
  EXPECT_THAT(refusal(scored), HasSubstr("scores"));
  TokenizerSpec byte = small_sentencepiece_spec();
  for (const char* text : {"<0x-1>", "<0xGG>", "<0x100>", "<0x1>", "x"}) {
    byte.tokens[3] = text;
    EXPECT_THAT(refusal(byte), HasSubstr("byte token 3 is")) << text;
  }
}

TEST(BadIds, AreRefused) {
  const Tokenizer tokenizer(small_byte_level_spec());
  for (const int32_t id : {-1, tokenizer.vocab_size(), 1 << 30}) {
    EXPECT_THROW(tokenizer.decode(std::vector<int32_t>{id}), Error);
    EXPECT_THROW(tokenizer.token_bytes(id), Error);
    EXPECT_THROW(tokenizer.is_control(id), Error);
    EXPECT_THROW(StreamDecoder(tokenizer).push(id), Error);
  }
  EXPECT_EQ(tokenizer.find("no such token"), -1);
}

TEST(BadPattern, GivesUpInsteadOfHanging) {
  TokenizerSpec spec = small_byte_level_spec();
  spec.pre_steps[0].pattern = "(a+)+b|(a|aa)+c";
  const Tokenizer tokenizer(std::move(spec));
  try {
    plain(tokenizer, std::string(5000, 'a'));
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(e.what(), HasSubstr("gave up at byte 0 of a text of 5000 bytes"));
  }
}

// ---- a megabyte of anything takes about as long as a megabyte of anything else

std::string megabyte_of(std::string_view unit) {
  std::string out;
  while (out.size() + unit.size() <= 1 << 20) out += unit;
  return out;
}

void check_speed(const Tokenizer& tokenizer) {
  for (const std::string_view unit : {"A", "\n", "us", "\U0001f600", "\xed\xa0\x80", " ", "the ",
                                      "<", "<|", "e\u0301", "\r\n", " \n", "1", "'",
                                      "\xff"
                                      "a",
                                      "the<|end|>", "\u2581"}) {
    const std::string text = megabyte_of(unit);
    const double start = test::cpu_seconds();
    EXPECT_FALSE(tokenizer.encode(text, SpecialTokens::kParse, false).empty());
    EXPECT_LT(test::cpu_seconds() - start, 1.0 * test::kSlowBuild)
        << ::testing::PrintToString(std::string(unit));
  }
}

TEST(Speed, ByteLevel) {
  check_speed(Tokenizer(small_byte_level_spec()));
}
TEST(Speed, SentencePiece) {
  check_speed(Tokenizer(small_sentencepiece_spec()));
}
TEST(Speed, MergesWithByteFallback) {
  check_speed(Tokenizer(test::small_fallback_spec()));
}
TEST(Speed, RealModel) {
  const auto model = test::real_model();
  if (!model) GTEST_SKIP() << "no SmolLM2 GGUF: ./dev setup fetches it";
  TokenizerSpec spec = tokenizer_spec_from_gguf(GgufFile::open(*model));
  check_speed(Tokenizer(std::move(spec)));
}

TEST(Speed, NormalizingCombiningMarks) {
  TokenizerSpec spec = small_byte_level_spec();
  spec.normalizer.push_back({.kind = NormalizerStep::Kind::kNfc});
  const Tokenizer tokenizer(std::move(spec));
  // Marks in the wrong order: quadratic for an insertion sort.
  const std::string text =
      "a" + megabyte_of("\u0301").substr(0, 1 << 19) + megabyte_of("\u0323").substr(0, 1 << 19);
  const double start = test::cpu_seconds();
  const std::string out = tokenizer.decode(plain(tokenizer, text));
  EXPECT_LT(test::cpu_seconds() - start, 1.0 * test::kSlowBuild);
  EXPECT_TRUE(out.starts_with("\u1ea1\u0323")) << "the marks below come first, the first composes";
}

}  // namespace
}  // namespace lowkey
