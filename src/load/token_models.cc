#include "load/token_models.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "load/utf8.h"

namespace lowkey {

namespace {

bool may_come_from_text(TokenKind kind) {
  return kind == TokenKind::kNormal || kind == TokenKind::kUserDefined ||
         kind == TokenKind::kUnused;
}

using TextToId = std::unordered_map<std::string_view, int32_t>;

// Open addressing over one array: a lookup per pair of neighbours is most of what encoding does.
class MergeTable {
 public:
  explicit MergeTable(size_t count) : slots_(std::bit_ceil(std::max<size_t>(16, 2 * count))) {}

  // Keeps the first of two entries for one pair: the better rank.
  void insert(int32_t left, int32_t right, BpeCandidate merged) {
    Slot& slot = slots_[locate(key(left, right))];
    if (slot.key == kFree) slot = {key(left, right), merged};
  }
  std::optional<BpeCandidate> find(int32_t left, int32_t right) const {
    if (left < 0 || right < 0) return std::nullopt;
    const Slot& slot = slots_[locate(key(left, right))];
    if (slot.key == kFree) return std::nullopt;
    return slot.merged;
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};
  struct Slot {
    uint64_t key = kFree;
    BpeCandidate merged;
  };

  static uint64_t key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t locate(uint64_t wanted) const {
    const size_t mask = slots_.size() - 1;
    size_t at = (wanted * 0x9e3779b97f4a7c15ull) >> 32 & mask;
    while (slots_[at].key != kFree && slots_[at].key != wanted) at = (at + 1) & mask;
    return at;
  }

  std::vector<Slot> slots_;
};

// `texts` holds each token as it stands in a piece. Of two that look alike there (GPT-NeoX has runs
// of spaces both as merged and as added tokens) the one that is not an added token counts.
TextToId index_by_text(const TokenizerSpec& spec, const std::vector<std::string>& texts) {
  TextToId out;
  out.reserve(texts.size());
  for (const bool added : {false, true}) {
    for (size_t id = 0; id < texts.size(); ++id) {
      const TokenKind kind = spec.token_kinds[id];
      if (!may_come_from_text(kind) || (kind == TokenKind::kUserDefined) != added) continue;
      out.emplace(texts[id], static_cast<int32_t>(id));
    }
  }
  return out;
}

int32_t lookup(const TextToId& index, std::string_view text) {
  const auto it = index.find(text);
  return it == index.end() ? -1 : it->second;
}

MergeTable build_merges(const TokenizerSpec& spec, const TextToId& index,
                        const std::vector<std::string>& texts) {
  // Merges that would write a control token out of plain text are passed over.
  std::unordered_set<std::string_view> silent;
  for (size_t id = 0; id < texts.size(); ++id) {
    if (!may_come_from_text(spec.token_kinds[id])) silent.insert(texts[id]);
  }
  MergeTable table(spec.merges.size());
  const auto size = static_cast<int32_t>(texts.size());
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto [left, right] = spec.merges[rank];
    if (left < 0 || right < 0 || left >= size || right >= size) {
      fail(ErrorCode::kCorruptFile, "tokenizer: merge {} joins ids {} and {} of a vocabulary of {}",
           rank, left, right, size);
    }
    const std::string joined = texts[static_cast<size_t>(left)] + texts[static_cast<size_t>(right)];
    const int32_t id = lookup(index, joined);
    if (id < 0 && silent.contains(joined)) continue;
    if (id < 0) {
      fail(ErrorCode::kCorruptFile, "tokenizer: merge {} makes '{}', which is no token", rank,
           joined);
    }
    table.insert(left, right, {static_cast<uint32_t>(rank), id});
  }
  return table;
}

std::array<int32_t, 256> byte_fallback_ids(const TokenizerSpec& spec,
                                           const std::vector<std::string>& bytes) {
  std::array<int32_t, 256> out;
  out.fill(-1);
  for (size_t id = 0; id < bytes.size(); ++id) {
    if (spec.token_kinds[id] == TokenKind::kByte) {
      out[static_cast<uint8_t>(bytes[id][0])] = static_cast<int32_t>(id);
    }
  }
  return out;
}

class ByteLevelModel : public TokenModel {
 public:
  ByteLevelModel(const TokenizerSpec& spec, const std::vector<std::string>& bytes)
      : whole_pieces_(spec.ignore_merges),
        index_(index_by_text(spec, bytes)),
        merges_(build_merges(spec, index_, bytes)) {
    for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
      const char text = static_cast<char>(byte);
      byte_ids_[byte] = lookup(index_, {&text, 1});
    }
  }

  void encode(std::string_view piece, BpeScratch& scratch,
              std::vector<int32_t>& out) const override {
    if (whole_pieces_) {
      if (const int32_t id = lookup(index_, piece); id >= 0) {
        out.push_back(id);
        return;
      }
    }
    auto& symbols = scratch.symbols;
    symbols.clear();
    for (size_t i = 0; i < piece.size(); ++i) {
      const auto at = static_cast<uint32_t>(i);
      const int32_t id = byte_ids_[static_cast<uint8_t>(piece[i])];
      if (id >= 0) symbols.push_back({at, at + 1, id});
    }
    close_gaps(symbols);
    scratch.merger.merge(symbols, [this](const BpeSymbol& left, const BpeSymbol& right) {
      return merges_.find(left.id, right.id);
    });
    for (const BpeSymbol& symbol : symbols) out.push_back(symbol.id);
  }

  void encode_bytes(std::string_view bytes, std::vector<int32_t>& out) const override {
    for (const char c : bytes) {
      if (const int32_t id = byte_ids_[static_cast<uint8_t>(c)]; id >= 0) out.push_back(id);
    }
  }

 private:
  // The neighbours of a byte that has no token become neighbours of each other (as in Hugging
  // Face).
  static void close_gaps(std::vector<BpeSymbol>& symbols) {
    for (size_t i = 0; i < symbols.size(); ++i) {
      symbols[i].begin = static_cast<uint32_t>(i);
      symbols[i].end = static_cast<uint32_t>(i + 1);
    }
  }

  bool whole_pieces_;
  TextToId index_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_;
};

// What the two models with "▁" and <0xNN> share.
class FallbackModel : public TokenModel {
 public:
  FallbackModel(const TokenizerSpec& spec, const std::vector<std::string>& bytes)
      : index_(index_by_text(spec, spec.tokens)),
        byte_ids_(byte_fallback_ids(spec, bytes)),
        unknown_(spec.unk) {}

  void encode_bytes(std::string_view bytes, std::vector<int32_t>& out) const override {
    for (const char c : bytes) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) {
        out.push_back(id);
      } else if (unknown_ >= 0) {
        out.push_back(unknown_);
      }
    }
  }

 protected:
  // One symbol per character.
  void characters(std::string_view piece, std::vector<BpeSymbol>& symbols) const {
    symbols.clear();
    for (size_t at = 0; at < piece.size();) {
      const size_t length = utf8_length(piece.substr(at));
      symbols.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(at + length),
                         lookup(index_, piece.substr(at, length))});
      at += length;
    }
  }

  TextToId index_;
  std::array<int32_t, 256> byte_ids_;
  int32_t unknown_;
};

// SentencePiece's BPE as llama.cpp runs it: any two neighbours whose texts joined are a token may
// merge, the best score first.
class ScoreModel : public FallbackModel {
 public:
  ScoreModel(const TokenizerSpec& spec, const std::vector<std::string>& bytes)
      : FallbackModel(spec, bytes), priorities_(spec.tokens.size()) {
    for (size_t id = 0; id < spec.tokens.size(); ++id) {
      if (std::isnan(spec.scores[id])) {
        fail(ErrorCode::kCorruptFile, "tokenizer: the score of token {} is not a number", id);
      }
      priorities_[id] = priority(spec.scores[id]);
    }
    for (const auto& [text, id] : index_) longest_ = std::max(longest_, text.size());
  }

  void encode(std::string_view piece, BpeScratch& scratch,
              std::vector<int32_t>& out) const override {
    auto& symbols = scratch.symbols;
    characters(piece, symbols);
    scratch.merger.merge(
        symbols, [&](const BpeSymbol& left, const BpeSymbol& right) -> std::optional<BpeCandidate> {
          const size_t size = right.end - left.begin;
          if (size > longest_) return std::nullopt;
          const int32_t id = lookup(index_, piece.substr(left.begin, size));
          if (id < 0) return std::nullopt;
          return BpeCandidate{priorities_[static_cast<size_t>(id)], id};
        });
    for (const BpeSymbol& symbol : symbols) {
      if (symbol.id >= 0) {
        out.push_back(symbol.id);
      } else {
        encode_bytes(piece.substr(symbol.begin, symbol.end - symbol.begin), out);
      }
    }
  }

 private:
  // Order-preserving: the highest score gets the smallest number. +0 and -0 are one score.
  static uint32_t priority(float score) {
    const auto bits = std::bit_cast<uint32_t>(score + 0.0f);
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ~ascending;
  }

  std::vector<uint32_t> priorities_;
  size_t longest_ = 0;
};

class RankModel : public FallbackModel {
 public:
  RankModel(const TokenizerSpec& spec, const std::vector<std::string>& bytes)
      : FallbackModel(spec, bytes),
        whole_pieces_(spec.ignore_merges),
        merges_(build_merges(spec, index_, spec.tokens)) {}

  void encode(std::string_view piece, BpeScratch& scratch,
              std::vector<int32_t>& out) const override {
    if (whole_pieces_) {
      if (const int32_t id = lookup(index_, piece); id >= 0) {
        out.push_back(id);
        return;
      }
    }
    auto& symbols = scratch.symbols;
    characters(piece, symbols);
    scratch.merger.merge(symbols, [this](const BpeSymbol& left, const BpeSymbol& right) {
      return merges_.find(left.id, right.id);
    });
    for (const BpeSymbol& symbol : symbols) {
      if (symbol.id >= 0) {
        out.push_back(symbol.id);
      } else {
        encode_bytes(piece.substr(symbol.begin, symbol.end - symbol.begin), out);
      }
    }
  }

 private:
  bool whole_pieces_;
  MergeTable merges_;
};

}  // namespace

std::unique_ptr<const TokenModel> make_token_model(const TokenizerSpec& spec,
                                                   const std::vector<std::string>& bytes) {
  switch (spec.kind) {
    case TokenizerKind::kByteLevelBpe: return std::make_unique<ByteLevelModel>(spec, bytes);
    case TokenizerKind::kSentencePiece: return std::make_unique<ScoreModel>(spec, bytes);
    case TokenizerKind::kMergesWithByteFallback: return std::make_unique<RankModel>(spec, bytes);
  }
  check_failed(__FILE__, __LINE__, "unreachable", "");
}

}  // namespace lowkey
