#include <algorithm>
#include <array>
#include <cctype>
#include <limits>
#include <string>
#include <unordered_map>

#include "core/checked.h"
#include "core/error.h"
#include "load/end_of_generation.h"
#include "load/pre_tokenizers.h"
#include "load/tokenizer_from_file.h"

namespace lowkey {

namespace {

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr const char* kMerges = "tokenizer.ggml.merges";

[[noreturn]] void corrupt(const GgufFile& file, std::string_view key, std::string_view what) {
  fail(ErrorCode::kCorruptFile, "{}: {}: {}", file.source_name(), key, what);
}

void check_count(const GgufFile& file, const char* key, size_t count, size_t tokens) {
  if (count != tokens) {
    corrupt(file, key, fmt::format("{} entries for a vocabulary of {} tokens", count, tokens));
  }
}

// The type numbers of llama.cpp's llama_token_type.
TokenKind kind_of(const GgufFile& file, int64_t type, size_t id) {
  switch (type) {
    case 1: return TokenKind::kNormal;
    case 2: return TokenKind::kUnknown;
    case 3: return TokenKind::kControl;
    case 4: return TokenKind::kUserDefined;
    case 5: return TokenKind::kUnused;
    case 6: return TokenKind::kByte;
    default: corrupt(file, kTypes, fmt::format("token {} has type {}, not 1 to 6", id, type));
  }
}

std::vector<TokenKind> read_kinds(const GgufFile& file, size_t tokens) {
  std::vector<TokenKind> kinds(tokens, TokenKind::kNormal);
  const GgufValue* value = file.find(kTypes);
  if (value == nullptr) return kinds;
  const auto fill = [&](const auto& types) {
    check_count(file, kTypes, types.size(), tokens);
    for (size_t id = 0; id < tokens; ++id) {
      kinds[id] = kind_of(file, checked_cast<int64_t>(types[id], kTypes), id);
    }
  };
  if (const auto* types = std::get_if<std::vector<int64_t>>(value)) {
    fill(*types);
  } else if (const auto* unsigned_types = std::get_if<std::vector<uint64_t>>(value)) {
    fill(*unsigned_types);
  } else {
    corrupt(file, kTypes, "not an array of integers");
  }
  return kinds;
}

std::vector<float> read_scores(const GgufFile& file, size_t tokens) {
  const GgufValue* value = file.find(kScores);
  const auto* scores = value ? std::get_if<std::vector<double>>(value) : nullptr;
  if (scores == nullptr) corrupt(file, kScores, "a vocabulary of scores needs an array of floats");
  check_count(file, kScores, scores->size(), tokens);
  return {scores->begin(), scores->end()};
}

std::vector<TokenMerge> read_merges(const GgufFile& file, const std::vector<std::string>& tokens) {
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) ids.emplace(tokens[id], static_cast<int32_t>(id));
  const std::vector<std::string>& lines = file.get_strings(kMerges);
  std::vector<TokenMerge> merges;
  merges.reserve(lines.size());
  for (const std::string_view line : lines) {
    // As llama.cpp: the first character is never the separator.
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == line.size()) {
      corrupt(file, kMerges, fmt::format("merge {} is '{}', not two tokens", merges.size(), line));
    }
    const auto left = ids.find(line.substr(0, space));
    const auto right = ids.find(line.substr(space + 1));
    if (left == ids.end() || right == ids.end()) {
      corrupt(file, kMerges,
              fmt::format("merge {} is '{}', but '{}' is not a token", merges.size(), line,
                          left == ids.end() ? line.substr(0, space) : line.substr(space + 1)));
    }
    merges.push_back({left->second, right->second});
  }
  return merges;
}

int32_t read_id(const GgufFile& file, const char* key, size_t tokens) {
  const int64_t id = file.get_int(key, -1);
  if (id < -1 || id >= static_cast<int64_t>(tokens)) {
    corrupt(file, key, fmt::format("token {} of a vocabulary of {}", id, tokens));
  }
  return static_cast<int32_t>(id);
}

// GGUF has no field for it; llama.cpp tells Phi-3 by the model's name, and so must we.
bool is_phi3(const GgufFile& file) {
  std::string name = file.get_string("general.name", "");
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
}

std::vector<AddedToken> added_tokens(const GgufFile& file, const TokenizerSpec& spec) {
  const bool phi3 = is_phi3(file);
  std::vector<AddedToken> added;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const TokenKind kind = spec.token_kinds[id];
    if (kind != TokenKind::kControl && kind != TokenKind::kUnknown &&
        kind != TokenKind::kUserDefined) {
      continue;
    }
    if (spec.tokens[id].empty())
      corrupt(file, kTokens, fmt::format("special token {} is empty", id));
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    const std::string& text = spec.tokens[id];
    token.rstrip = phi3 && text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
    added.push_back(token);
  }
  return added;
}

void read_byte_level(const GgufFile& file, TokenizerSpec& spec) {
  spec.kind = TokenizerKind::kByteLevelBpe;
  // Files older than the key were converted before llama.cpp told pre-tokenizers apart; "default"
  // is what it uses for them.
  spec.pre_tokenizer = file.get_string("tokenizer.ggml.pre", "default");
  NamedPreTokenizer named = named_pre_tokenizer(spec.pre_tokenizer);
  spec.pre_steps = std::move(named.steps);
  if (named.nfc) spec.normalizer.push_back({.kind = NormalizerStep::Kind::kNfc});
  spec.ignore_merges = named.ignore_merges;
  spec.add_bos = named.add_bos;
  spec.merges = read_merges(file, spec.tokens);
  if (file.get_bool("tokenizer.ggml.add_space_prefix", false)) {
    fail(ErrorCode::kUnsupported,
         "{}: tokenizer.ggml.add_space_prefix is not supported with tokenizer.ggml.model 'gpt2'",
         file.source_name());
  }
}

void read_sentencepiece(const GgufFile& file, TokenizerSpec& spec) {
  spec.kind = TokenizerKind::kSentencePiece;
  spec.pre_tokenizer = file.get_string("tokenizer.ggml.pre", "default");
  if (spec.pre_tokenizer != "default" && spec.pre_tokenizer != "llama-spm") {
    fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.pre '{}' with tokenizer.ggml.model 'llama'",
         file.source_name(), spec.pre_tokenizer);
  }
  if (file.get_bool("tokenizer.ggml.remove_extra_whitespaces", false)) {
    fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.remove_extra_whitespaces is not supported",
         file.source_name());
  }
  spec.scores = read_scores(file, spec.tokens.size());
  spec.add_bos = true;
  spec.strip_leading_space = file.get_bool("tokenizer.ggml.add_space_prefix", true);
  if (spec.strip_leading_space) {
    spec.normalizer.push_back({.kind = NormalizerStep::Kind::kPrepend, .to = " "});
  }
  spec.normalizer.push_back({.kind = NormalizerStep::Kind::kReplace, .from = " ", .to = "\u2581"});
}

}  // namespace

TokenizerSpec tokenizer_spec_from_gguf(const GgufFile& file) {
  const GgufValue* model = file.find("tokenizer.ggml.model");
  if (model == nullptr || file.find(kTokens) == nullptr) {
    fail(ErrorCode::kNotFound, "{}: no tokenizer in this file (tokenizer.ggml.model, {})",
         file.source_name(), kTokens);
  }
  TokenizerSpec spec;
  spec.tokens = file.get_strings(kTokens);
  spec.token_kinds = read_kinds(file, spec.tokens.size());
  const std::string name = file.get_string("tokenizer.ggml.model");
  if (name == "gpt2") {
    read_byte_level(file, spec);
  } else if (name == "llama") {
    read_sentencepiece(file, spec);
  } else {
    fail(ErrorCode::kUnsupported,
         "{}: tokenizer.ggml.model '{}' is not supported; known: gpt2, llama", file.source_name(),
         name);
  }
  const size_t size = spec.tokens.size();
  spec.bos = read_id(file, "tokenizer.ggml.bos_token_id", size);
  spec.eos = read_id(file, "tokenizer.ggml.eos_token_id", size);
  spec.unk = read_id(file, "tokenizer.ggml.unknown_token_id", size);
  spec.pad = read_id(file, "tokenizer.ggml.padding_token_id", size);
  spec.add_bos = file.get_bool("tokenizer.ggml.add_bos_token", spec.add_bos);
  spec.add_eos = file.get_bool("tokenizer.ggml.add_eos_token", spec.add_eos);
  spec.added = added_tokens(file, spec);
  spec.end_of_generation = {spec.eos, read_id(file, "tokenizer.ggml.eot_token_id", size),
                            read_id(file, "tokenizer.ggml.eom_token_id", size)};
  complete_end_of_generation(spec);
  return spec;
}

}  // namespace lowkey
