// Any bytes through small vocabularies of each kind, and any small vocabulary. What must hold: an
// Error or the text back, streamed text equal to decoded text, no control token out of plain text.
// The first byte picks what is tried.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "load/pre_tokenizers.h"
#include "load/tokenizer.h"
#include "load/utf8.h"
#include "support/tokenizer_specs.h"

namespace {

using lowkey::PromptPiece;
using lowkey::SpecialTokens;
using lowkey::Tokenizer;
using lowkey::TokenizerKind;
using lowkey::TokenizerSpec;
using lowkey::TokenKind;

Tokenizer with_pre_tokenizer(std::string_view name) {
  TokenizerSpec spec = lowkey::test::small_byte_level_spec();
  spec.pre_steps = lowkey::named_pre_tokenizer(name).steps;
  return Tokenizer(std::move(spec));
}

const Tokenizer& pick(uint8_t which) {
  static const Tokenizer tokenizers[] = {
      Tokenizer(lowkey::test::small_byte_level_spec()),
      Tokenizer(lowkey::test::small_sentencepiece_spec()),
      Tokenizer(lowkey::test::small_fallback_spec()),
      with_pre_tokenizer("llama-bpe"),
      with_pre_tokenizer("qwen2"),
      with_pre_tokenizer("tekken"),
      with_pre_tokenizer("gpt-4o"),
      with_pre_tokenizer("default"),
      with_pre_tokenizer("falcon"),
  };
  return tokenizers[which % std::size(tokenizers)];
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  lowkey::StreamDecoder decoder(tokenizer);
  std::string out;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    LOWKEY_CHECK(lowkey::is_valid_utf8(part));
    out += part;
  }
  return out + decoder.finish();
}

void check_text(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> plain = tokenizer.encode(text, SpecialTokens::kIgnore, false);
  const std::vector<int32_t> parsed = tokenizer.encode(text, SpecialTokens::kParse, true);
  LOWKEY_CHECK(std::none_of(plain.begin(), plain.end(),
                            [&](int32_t id) { return tokenizer.is_control(id); }));
  LOWKEY_CHECK(streamed(tokenizer, plain) == lowkey::utf8_replace_invalid(tokenizer.decode(plain)));
  LOWKEY_CHECK(streamed(tokenizer, parsed) ==
               lowkey::utf8_replace_invalid(tokenizer.decode(parsed)));
  // SentencePiece writes a space as "▁", and one before the text after every added token.
  const bool exact = tokenizer.spec().kind == TokenizerKind::kByteLevelBpe ||
                     (text.find("\u2581") == text.npos && text.find("<tool>") == text.npos);
  if (exact) LOWKEY_CHECK(tokenizer.decode(plain) == text);

  // A prompt in three pieces, the middle one a user's, holds no more control tokens than the
  // template's pieces do together.
  const size_t third = text.size() / 3;
  const std::vector<PromptPiece> prompt = {{std::string(text.substr(0, third)), true},
                                           {std::string(text.substr(third, third)), false},
                                           {std::string(text.substr(2 * third)), true}};
  const auto controls = [&](const std::vector<int32_t>& ids) {
    return std::count_if(ids.begin(), ids.end(),
                         [&](int32_t id) { return tokenizer.is_control(id); });
  };
  const auto allowed = controls(tokenizer.encode(prompt[0].text, SpecialTokens::kParse, false)) +
                       controls(tokenizer.encode(prompt[2].text, SpecialTokens::kParse, false));
  LOWKEY_CHECK(controls(tokenizer.encode(prompt, false)) <= allowed);
}

// Lines: a pattern, then tokens; the byte before each token says its kind and a merge.
void check_vocabulary(uint8_t which, std::string_view input) {
  TokenizerSpec spec;
  spec.kind = static_cast<TokenizerKind>(which % 3);
  const std::string_view all = input;
  const auto take_line = [&] {
    const size_t end = std::min(input.find('\n'), input.size());
    const std::string_view line = input.substr(0, end);
    input.remove_prefix(std::min(end + 1, input.size()));
    return line;
  };
  spec.pre_steps.push_back({.pattern = std::string(take_line())});
  while (!input.empty() && spec.tokens.size() < 1000) {
    const std::string_view line = take_line();
    if (line.empty()) continue;
    const auto control = static_cast<uint8_t>(line[0]);
    const auto kind = static_cast<TokenKind>(control % 6);
    const int32_t id =
        lowkey::test::add_token(spec, std::string(line.substr(1)), kind, control * 0.5f);
    spec.merges.push_back({id - control % 5, id - control % 3});
  }
  spec.ignore_merges = which & 8;
  spec.strip_leading_space = which & 16;
  if (which & 32) spec.normalizer.push_back({.kind = lowkey::NormalizerStep::Kind::kNfc});
  const Tokenizer tokenizer(std::move(spec));
  const std::string_view text = all.substr(0, 256);
  const std::vector<int32_t> ids = tokenizer.encode(text, SpecialTokens::kParse, true);
  LOWKEY_CHECK(streamed(tokenizer, ids) == lowkey::utf8_replace_invalid(tokenizer.decode(ids)));
  for (const int32_t id : tokenizer.encode(text, SpecialTokens::kIgnore, false)) {
    LOWKEY_CHECK(!tokenizer.is_control(id) || id == tokenizer.spec().unk);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    if (data[0] & 0x80) {
      check_vocabulary(data[0], input);
    } else {
      check_text(pick(data[0]), input);
    }
  } catch (const lowkey::Error&) {
  }
  return 0;
}
