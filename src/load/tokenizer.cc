#include "load/tokenizer.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "load/added_tokens.h"
#include "load/byte_alphabet.h"
#include "load/pre_tokenizers.h"
#include "load/search.h"
#include "load/token_models.h"
#include "load/unicode.h"
#include "load/utf8.h"

namespace lowkey {

namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 28;
constexpr std::string_view kSpaceMarker = "\u2581";  // "▁", SentencePiece's visible space

bool prints_as_nothing(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUnknown;
}

// "<0x0A>" -> 10
std::optional<uint8_t> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  uint8_t value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc() || end != token.data() + 5) return std::nullopt;
  return value;
}

std::string bytes_of_token(const TokenizerSpec& spec, size_t id) {
  const std::string& text = spec.tokens[id];
  const TokenKind kind = spec.token_kinds[id];
  if (kind == TokenKind::kByte) {
    const std::optional<uint8_t> byte = byte_of(text);
    if (!byte) {
      fail(ErrorCode::kCorruptFile, "tokenizer: byte token {} is '{}', not <0x00> to <0xFF>", id,
           text);
    }
    return std::string(1, static_cast<char>(*byte));
  }
  if (prints_as_nothing(kind)) return text;
  if (spec.kind != TokenizerKind::kByteLevelBpe) return replace_text(text, kSpaceMarker, " ");
  if (kind == TokenKind::kUserDefined) return text;
  // Hugging Face prints a token with characters outside the alphabet as it stands.
  return bytes_from_alphabet(text).value_or(text);
}

void check_id(const TokenizerSpec& spec, int32_t id, const char* what) {
  if (id < -1 || id >= static_cast<int32_t>(spec.tokens.size())) {
    fail(ErrorCode::kCorruptFile, "tokenizer: the {} token is {}, but the vocabulary has {}", what,
         id, spec.tokens.size());
  }
}

void check_spec(const TokenizerSpec& spec) {
  const size_t size = spec.tokens.size();
  if (size == 0) fail(ErrorCode::kCorruptFile, "tokenizer: the vocabulary is empty");
  if (size > size_t{1} << 24) {
    fail(ErrorCode::kUnsupported, "tokenizer: a vocabulary of {} tokens (at most 2^24)", size);
  }
  if (spec.token_kinds.size() != size) {
    fail(ErrorCode::kCorruptFile, "tokenizer: {} tokens, but {} token types", size,
         spec.token_kinds.size());
  }
  if (spec.kind == TokenizerKind::kSentencePiece && spec.scores.size() != size) {
    fail(ErrorCode::kCorruptFile, "tokenizer: {} tokens, but {} scores", size, spec.scores.size());
  }
  for (size_t id = 0; id < size; ++id) {
    if (!is_valid_utf8(spec.tokens[id])) {
      fail(ErrorCode::kCorruptFile, "tokenizer: the text of token {} is not valid UTF-8", id);
    }
  }
  check_id(spec, spec.bos, "bos");
  check_id(spec, spec.eos, "eos");
  check_id(spec, spec.unk, "unk");
  check_id(spec, spec.pad, "pad");
  for (const int32_t id : spec.end_of_generation) check_id(spec, id, "end-of-generation");
  if (spec.add_bos && spec.bos < 0) {
    fail(ErrorCode::kCorruptFile, "tokenizer: asks for a bos token and names none");
  }
  if (spec.add_eos && spec.eos < 0) {
    fail(ErrorCode::kCorruptFile, "tokenizer: asks for an eos token and names none");
  }
}

// Which stretches of a text may hold control tokens.
class TrustMap {
 public:
  // Adds the next `size` bytes.
  void append(size_t size, bool trusted) {
    end_ += size;
    if (!runs_.empty() && runs_.back().trusted == trusted) {
      runs_.back().end = end_;
    } else {
      runs_.push_back({end_, trusted});
    }
  }
  // As AddedTokenTrie::find wants it. Called with ascending positions: a cursor, not a search.
  size_t trusted_end(size_t at) {
    while (cursor_ < runs_.size() && runs_[cursor_].end <= at) ++cursor_;
    return cursor_ < runs_.size() && runs_[cursor_].trusted ? runs_[cursor_].end : 0;
  }

 private:
  struct Run {
    size_t end;
    bool trusted;
  };
  std::vector<Run> runs_;
  size_t end_ = 0;
  size_t cursor_ = 0;
};

size_t leading_white_space(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t length = utf8_length(text.substr(at));
    if (length == 0 || !is_white_space(utf8_decode(text.substr(at, length)))) break;
    at += length;
  }
  return at;
}

size_t trailing_white_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && end - begin < 4 && (static_cast<uint8_t>(text[begin]) & 0xc0) == 0x80) {
      --begin;
    }
    const std::string_view last = text.substr(begin, end - begin);
    if (utf8_length(last) != last.size() || !is_white_space(utf8_decode(last))) break;
    end = begin;
  }
  return text.size() - end;
}

}  // namespace

struct Tokenizer::Impl {
  TokenizerSpec spec;
  std::vector<std::string> bytes;  // id -> what it stands for
  std::unordered_map<std::string_view, int32_t> ids;
  std::vector<bool> ends_generation;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  AddedTokenTrie raw_added;         // values index spec.added
  AddedTokenTrie normalized_added;  // looked for after normalizing
  std::unique_ptr<const TokenModel> model;

  explicit Impl(TokenizerSpec from)
      : spec((check_spec(from), std::move(from))),
        ends_generation(spec.tokens.size()),
        normalizer(spec.normalizer),
        pre_tokenizer(spec.pre_steps) {
    bytes.reserve(spec.tokens.size());
    ids.reserve(spec.tokens.size());
    for (size_t id = 0; id < spec.tokens.size(); ++id) {
      bytes.push_back(bytes_of_token(spec, id));
      const auto [it, fresh] = ids.emplace(spec.tokens[id], static_cast<int32_t>(id));
      // Holes in the numbering have no text, and there may be many.
      if (!fresh && !spec.tokens[id].empty()) {
        fail(ErrorCode::kCorruptFile, "tokenizer: tokens {} and {} are both '{}'", it->second, id,
             spec.tokens[id]);
      }
    }
    for (const int32_t id : spec.end_of_generation) {
      if (id >= 0) ends_generation[static_cast<size_t>(id)] = true;
    }
    for (size_t i = 0; i < spec.added.size(); ++i) add(i);
    model = make_token_model(spec, bytes);
  }

  void add(size_t index_in_spec) {
    const AddedToken& token = spec.added[index_in_spec];
    check_id(spec, token.id, "added");
    if (token.id < 0) fail(ErrorCode::kCorruptFile, "tokenizer: an added token has no id");
    const auto id = static_cast<size_t>(token.id);
    const auto value = static_cast<int32_t>(index_in_spec);
    if (prints_as_nothing(spec.token_kinds[id])) {
      raw_added.insert(spec.tokens[id], value, true);
    } else if (token.normalized) {
      const std::string normalized = normalizer.apply(spec.tokens[id]);
      normalized_added.insert(normalized, value, false);
      bytes[id] = spec.kind == TokenizerKind::kByteLevelBpe
                      ? normalized
                      : replace_text(normalized, kSpaceMarker, " ");
    } else {
      raw_added.insert(spec.tokens[id], value, false);
    }
  }

  // Calls on_text(begin, end) and on_token(id) in the text's order.
  template <typename OnText, typename OnToken>
  void partition(const AddedTokenTrie& trie, std::string_view text, TrustMap trust,
                 OnText&& on_text, OnToken&& on_token) const {
    size_t done = 0;
    while (const auto match =
               trie.find(text, done, [&](size_t at) { return trust.trusted_end(at); })) {
      const AddedToken& token = spec.added[static_cast<size_t>(match->value)];
      size_t begin = match->begin, end = match->end;
      if (token.lstrip) begin -= trailing_white_space(text.substr(done, begin - done));
      if (token.rstrip) end += leading_white_space(text.substr(end));
      if (begin > done) on_text(done, begin);
      on_token(token.id);
      done = end;
    }
    if (done < text.size()) on_text(done, text.size());
  }

  std::vector<int32_t> encode(std::string_view text, TrustMap trust, bool add_special) const {
    if (text.size() > kMaxTextBytes) {
      fail(ErrorCode::kInvalidArgument,
           "a text of {} bytes is too long to tokenize (at most 256 MiB)", text.size());
    }
    std::vector<int32_t> out;
    BpeScratch scratch;
    if (add_special && spec.add_bos) out.push_back(spec.bos);
    partition(
        raw_added, text, std::move(trust),
        [&](size_t begin, size_t end) {
          encode_text(normalizer.apply(text.substr(begin, end - begin)), begin == 0, scratch, out);
        },
        [&](int32_t id) { out.push_back(id); });
    if (add_special && spec.add_eos) out.push_back(spec.eos);
    return out;
  }

  void encode_text(std::string normalized, bool first, BpeScratch& scratch,
                   std::vector<int32_t>& out) const {
    if (normalized_added.empty()) {
      encode_pieces(pre_tokenizer.split(std::move(normalized), first), scratch, out);
      return;
    }
    const std::string_view text = normalized;
    partition(
        normalized_added, text, TrustMap(),
        [&](size_t begin, size_t end) {
          encode_pieces(pre_tokenizer.split(std::string(text.substr(begin, end - begin)),
                                            first && begin == 0),
                        scratch, out);
        },
        [&](int32_t id) { out.push_back(id); });
  }

  void encode_pieces(const PieceText& text, BpeScratch& scratch, std::vector<int32_t>& out) const {
    for (const PieceText::Piece& piece : text.pieces) {
      if (piece.valid_utf8) {
        model->encode(text.view(piece), scratch, out);
      } else {
        model->encode_bytes(text.view(piece), out);
      }
    }
  }

  size_t index(int32_t id) const {
    if (id < 0 || id >= static_cast<int32_t>(spec.tokens.size())) {
      fail(ErrorCode::kInvalidArgument, "token id {} is outside the vocabulary of {}", id,
           spec.tokens.size());
    }
    return static_cast<size_t>(id);
  }

  // What `id` adds to the text; `first`: nothing has been printed yet.
  std::string_view printed(int32_t id, bool first, bool show_special) const {
    const size_t i = index(id);
    if (!show_special && prints_as_nothing(spec.token_kinds[i])) return {};
    std::string_view text = bytes[i];
    if (first && spec.strip_leading_space && text.starts_with(' ')) text.remove_prefix(1);
    return text;
  }

  bool is_silent(int32_t id) const { return prints_as_nothing(spec.token_kinds[index(id)]); }
};

Tokenizer::Tokenizer(TokenizerSpec spec) : impl_(std::make_unique<const Impl>(std::move(spec))) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens special,
                                       bool add_special) const {
  TrustMap trust;
  trust.append(text.size(), special == SpecialTokens::kParse);
  return impl_->encode(text, std::move(trust), add_special);
}

std::vector<int32_t> Tokenizer::encode(std::span<const PromptPiece> prompt,
                                       bool add_special) const {
  std::string text;
  TrustMap trust;
  for (const PromptPiece& piece : prompt) {
    if (piece.text.empty()) continue;
    text += piece.text;
    trust.append(piece.text.size(), piece.from_template);
  }
  return impl_->encode(text, std::move(trust), add_special);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool show_special) const {
  std::string out;
  bool first = true;
  for (const int32_t id : ids) {
    out += impl_->printed(id, first, show_special);
    first = first && !show_special && impl_->is_silent(id);
  }
  return out;
}

const std::string& Tokenizer::token_bytes(int32_t id) const {
  return impl_->bytes[impl_->index(id)];
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(impl_->spec.tokens.size());
}

int32_t Tokenizer::find(std::string_view token) const {
  const auto it = impl_->ids.find(token);
  return it == impl_->ids.end() ? -1 : it->second;
}

bool Tokenizer::is_end_of_generation(int32_t id) const {
  return impl_->ends_generation[impl_->index(id)];
}

bool Tokenizer::is_control(int32_t id) const {
  return impl_->is_silent(id);
}

const TokenizerSpec& Tokenizer::spec() const {
  return impl_->spec;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

std::string StreamDecoder::push(int32_t id) {
  if (tokenizer_->is_control(id)) return {};
  std::string_view text = tokenizer_->token_bytes(id);
  if (first_ && tokenizer_->spec().strip_leading_space && text.starts_with(' ')) {
    text.remove_prefix(1);
  }
  first_ = false;
  pending_ += text;
  const size_t complete = pending_.size() - utf8_unfinished_suffix(pending_);
  std::string out = utf8_replace_invalid(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out = utf8_replace_invalid(pending_);
  pending_.clear();
  first_ = true;
  return out;
}

}  // namespace lowkey
