#include "load/pre_tokenizers.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "load/byte_alphabet.h"
#include "load/search.h"
#include "load/unicode.h"
#include "load/utf8.h"

namespace lowkey {

namespace {

using Piece = PieceText::Piece;

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
// Words cut where lower case turns to upper case.
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::string_view kPunctuation = R"([\p{P}\$\+<=>\^`\|~])";
constexpr std::string_view kDigit = R"(\p{N})";

// A step whose matches and gaps are all pieces.
PreTokenizerStep isolate(std::string_view pattern) {
  PreTokenizerStep step;
  step.pattern = pattern;
  return step;
}

// Alternating stretches of well-formed and ill-formed bytes.
std::vector<Piece> stretches(std::string_view text) {
  std::vector<Piece> out;
  size_t at = 0;
  while (at < text.size()) {
    if (const size_t valid = utf8_valid_prefix(text.substr(at)); valid > 0) {
      out.push_back({at, at + valid, true});
      at += valid;
    }
    const size_t begin = at;
    while (at < text.size() && utf8_length(text.substr(at)) == 0) ++at;
    if (at > begin) out.push_back({begin, at, false});
  }
  return out;
}

// Applies edit(piece, the piece before it or null, out) to every well-formed piece and moves the
// others along.
template <typename Edit>
void rewrite(PieceText& in, Edit&& edit) {
  PieceText out;
  out.text.reserve(in.text.size());
  const Piece* previous = nullptr;
  for (const Piece& piece : in.pieces) {
    const size_t begin = out.text.size();
    if (piece.valid_utf8) {
      edit(in.view(piece), previous, out.text);
    } else {
      out.text += in.view(piece);
    }
    previous = &piece;
    if (out.text.size() > begin) out.pieces.push_back({begin, out.text.size(), piece.valid_utf8});
  }
  in = std::move(out);
}

// Cuts one piece and joins the parts as the behaviour says.
class Splitter {
 public:
  Splitter(const PreTokenizerStep& step, const Pattern& pattern, std::vector<Piece>& out)
      : step_(step), matcher_(pattern), out_(out) {}

  void split(std::string_view subject, size_t offset) {
    parts_.clear();
    size_t done = 0, from = 0;
    Matcher::Match match;
    while (from <= subject.size() && matcher_.find(subject, from, match)) {
      add(done, match.begin, false);
      add(match.begin, match.end, true);
      done = match.end;
      // An empty match cuts where it stands; the search goes on one character later.
      from = match.end > match.begin
                 ? match.end
                 : match.end + std::max<size_t>(1, utf8_length(subject.substr(match.end)));
    }
    add(done, subject.size(), false);
    join();
    for (const Part& part : parts_) {
      if (part.kept) out_.push_back({offset + part.begin, offset + part.end, true});
    }
  }

 private:
  struct Part {
    size_t begin, end;
    bool match;
    bool kept = true;
  };

  void add(size_t begin, size_t end, bool match) {
    if (end > begin) parts_.push_back({begin, end, match != step_.invert});
  }

  void join() {
    switch (step_.behavior) {
      case SplitBehavior::kIsolated: return;
      case SplitBehavior::kRemoved:
        for (Part& part : parts_) part.kept = !part.match;
        return;
      case SplitBehavior::kMergedWithPrevious:
        for (size_t i = 1; i < parts_.size(); ++i) {
          if (parts_[i].match && !parts_[i - 1].match) absorb(i, i - 1);
        }
        return;
      case SplitBehavior::kMergedWithNext:
        for (size_t i = parts_.size(); i-- > 1;) {
          if (parts_[i - 1].match && !parts_[i].match) absorb(i - 1, i);
        }
        return;
      case SplitBehavior::kContiguous:
        for (size_t i = 1; i < parts_.size(); ++i) {
          if (parts_[i].match == parts_[i - 1].match) absorb(i - 1, i);
        }
        return;
    }
  }

  // Part `into` takes the span of its neighbour `gone`.
  void absorb(size_t gone, size_t into) {
    parts_[into].begin = std::min(parts_[into].begin, parts_[gone].begin);
    parts_[into].end = std::max(parts_[into].end, parts_[gone].end);
    parts_[gone].kept = false;
  }

  const PreTokenizerStep& step_;
  Matcher matcher_;
  std::vector<Piece>& out_;
  std::vector<Part> parts_;
};

// Each byte as its character: where the cuts in these characters are in the bytes.
void split_bytes(PieceText& text, const PreTokenizerStep& step, const Pattern& pattern) {
  std::vector<Piece> out, parts;
  Splitter splitter(step, pattern, parts);
  std::string characters;
  std::vector<size_t> byte_at;  // of each place in `characters`
  for (const Piece& piece : text.pieces) {
    if (!piece.valid_utf8) {
      out.push_back(piece);
      continue;
    }
    characters.clear();
    byte_at.clear();
    for (size_t at = piece.begin; at < piece.end; ++at) {
      characters += byte_alphabet()[static_cast<uint8_t>(text.text[at])];
      byte_at.resize(characters.size(), at);
    }
    byte_at.push_back(piece.end);
    parts.clear();
    splitter.split(characters, 0);
    for (const Piece& part : parts) out.push_back({byte_at[part.begin], byte_at[part.end], true});
  }
  text.pieces = std::move(out);
}

void split_pieces(PieceText& text, const PreTokenizerStep& step, const Pattern& pattern) {
  if (step.of_bytes) return split_bytes(text, step, pattern);
  std::vector<Piece> out;
  out.reserve(text.pieces.size());
  Splitter splitter(step, pattern, out);
  for (const Piece& piece : text.pieces) {
    if (piece.valid_utf8) {
      splitter.split(text.view(piece), piece.begin);
    } else {
      out.push_back(piece);
    }
  }
  text.pieces = std::move(out);
}

}  // namespace

std::string_view gpt2_pattern() {
  return kGpt2;
}

std::string_view punctuation_pattern() {
  return kPunctuation;
}

std::string_view digit_pattern() {
  return kDigit;
}

NamedPreTokenizer named_pre_tokenizer(std::string_view name) {
  const auto is = [name](auto... names) { return ((name == names) || ...); };
  if (is("gpt-2", "gpt2", "phi-2")) return {.steps = {isolate(kGpt2)}};
  if (is("smollm", "starcoder", "refact", "codeshell")) {
    // Two stages: one alternation of both would keep the space before a digit with it.
    return {.steps = {isolate(R"(\p{N})"), isolate(kGpt2)}};
  }
  if (is("falcon")) {
    // As its tokenizer.json: the digits are cut off after the bytes have become characters, of
    // which "²" is one.
    PreTokenizerStep punctuation = isolate(kPunctuation), digits = isolate(kDigit);
    PreTokenizerStep threes = isolate("[0-9][0-9][0-9]");
    punctuation.behavior = digits.behavior = SplitBehavior::kContiguous;
    digits.of_bytes = threes.of_bytes = true;
    return {.steps = {punctuation, isolate(kGpt2), digits, threes}};
  }
  if (is("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral")) {
    return {.steps = {isolate(kLlama3)}, .ignore_merges = true, .add_bos = true};
  }
  if (is("dbrx", "smaug-bpe")) return {.steps = {isolate(kLlama3)}};
  if (is("qwen2", "deepseek-r1-qwen")) return {.steps = {isolate(kQwen2)}, .nfc = true};
  if (is("tekken")) return {.steps = {isolate(kTekken)}, .ignore_merges = true, .add_bos = true};
  if (is("gpt-4o")) return {.steps = {isolate(kGpt4o)}};
  if (is("default")) {
    return {.steps = {isolate(R"([\p{P}\$\+<=>\^~\|]+)"), isolate(kGpt2), isolate(R"(\p{N}+)"),
                      isolate("[0-9][0-9][0-9]")}};
  }
  fail(ErrorCode::kUnsupported,
       "pre-tokenizer '{}' (tokenizer.ggml.pre) is not supported; known: gpt-2, smollm, llama-bpe, "
       "qwen2, tekken, gpt-4o, phi-2, falcon, falcon3, dbrx, smaug-bpe, pixtral, "
       "deepseek-r1-qwen, starcoder, refact, codeshell, default",
       name);
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const NormalizerStep& step : steps_) {
    switch (step.kind) {
      case NormalizerStep::Kind::kNfc: {
        PieceText pieces{std::move(out), {}};
        pieces.pieces = stretches(pieces.text);
        rewrite(pieces, [](std::string_view piece, const Piece*, std::string& to) {
          to += normalize_nfc(piece);
        });
        out = std::move(pieces.text);
        break;
      }
      case NormalizerStep::Kind::kPrepend:
        if (!out.empty()) out.insert(0, step.to);
        break;
      case NormalizerStep::Kind::kReplace: out = replace_text(out, step.from, step.to); break;
    }
  }
  return out;
}

PreTokenizer::PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {
  for (const PreTokenizerStep& step : steps_) {
    if (step.kind == PreTokenizerStep::Kind::kSplit) patterns_.emplace_back(step.pattern);
  }
}

PieceText PreTokenizer::split(std::string text, bool first) const {
  PieceText out{std::move(text), {}};
  out.pieces = stretches(out.text);
  size_t pattern = 0;
  for (const PreTokenizerStep& step : steps_) {
    switch (step.kind) {
      case PreTokenizerStep::Kind::kSplit: split_pieces(out, step, patterns_[pattern++]); break;
      case PreTokenizerStep::Kind::kReplace:
        rewrite(out, [&](std::string_view piece, const Piece*, std::string& to) {
          to += replace_text(piece, step.from, step.to);
        });
        break;
      case PreTokenizerStep::Kind::kPrefix: {
        // A piece after bytes that are not UTF-8 continues what was there: no prefix, so that
        // decoding gives the bytes back.
        rewrite(out, [&](std::string_view piece, const Piece* previous, std::string& to) {
          const bool wanted =
              step.only_first ? first && previous == nullptr : !previous || previous->valid_utf8;
          if (wanted && !piece.starts_with(step.to)) to += step.to;
          to += piece;
        });
        break;
      }
    }
  }
  return out;
}

}  // namespace lowkey
