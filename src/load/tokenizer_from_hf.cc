#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "load/end_of_generation.h"
#include "load/json.h"
#include "load/pre_tokenizers.h"
#include "load/tokenizer_from_file.h"

namespace lowkey {

namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxJsonBytes = uint64_t{256} << 20;
constexpr std::string_view kSpaceMarker = "\u2581";

// One reader per folder: carries the path for error messages.
class HfTokenizerReader {
 public:
  explicit HfTokenizerReader(const std::filesystem::path& folder) : folder_(folder) {}

  TokenizerSpec read() {
    path_ = folder_ / "tokenizer.json";
    const Json file = parse(path_);
    spec_.pre_tokenizer = "tokenizer.json";
    read_pre_tokenizer(member(file, "pre_tokenizer"));
    read_normalizer(member(file, "normalizer"));
    read_decoder(member(file, "decoder"));
    read_model(member(file, "model"));
    read_added(member(file, "added_tokens"));
    read_post_processor(member(file, "post_processor"));
    // "truncation" and "padding" are left alone: transformers sets them anew for each call.
    read_config();
    spec_.end_of_generation.push_back(spec_.eos);
    read_generation_config();
    complete_end_of_generation(spec_);
    return std::move(spec_);
  }

 private:
  [[noreturn]] void corrupt(std::string_view what) const {
    fail(ErrorCode::kCorruptFile, "{}: {}", path_.string(), what);
  }
  [[noreturn]] void unsupported(std::string_view what) const {
    fail(ErrorCode::kUnsupported, "{}: {} is not supported", path_.string(), what);
  }

  Json parse(const std::filesystem::path& path) const {
    Json json = read_json_file(path, kMaxJsonBytes);
    if (!json.is_object()) corrupt("not a JSON object");
    return json;
  }

  // ---- typed access; null stands for absent

  static const Json& member(const Json& object, const char* key) {
    static const Json null;
    const auto it = object.find(key);
    return it == object.end() ? null : *it;
  }
  std::string text(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_string()) corrupt(fmt::format("'{}' is not a string", key));
    return value.get<std::string>();
  }
  bool flag(const Json& object, const char* key, bool fallback) const {
    const Json& value = member(object, key);
    if (value.is_null()) return fallback;
    if (!value.is_boolean()) corrupt(fmt::format("'{}' is not true or false", key));
    return value.get<bool>();
  }
  const Json& list(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_array()) corrupt(fmt::format("'{}' is not a list", key));
    return value;
  }
  int32_t id(const Json& value, std::string_view what) const {
    if (!value.is_number_integer() || value.get<int64_t>() < 0 ||
        value.get<int64_t>() >= int64_t{1} << 24) {
      corrupt(fmt::format("the id of {} is not an integer from 0 to 2^24", what));
    }
    return value.get<int32_t>();
  }
  std::string type(const Json& object, const char* where) const {
    if (!object.is_object()) corrupt(fmt::format("{} is not an object", where));
    return text(object, "type");
  }

  // ---- normalizer

  void read_normalizer(const Json& json) {
    if (json.is_null()) return;
    const std::string kind = type(json, "normalizer");
    if (kind == "Sequence") {
      for (const Json& step : list(json, "normalizers")) {
        if (step.is_object() && member(step, "type") == "Sequence") {
          unsupported("a normalizer Sequence inside a Sequence");
        }
        read_normalizer(step);
      }
    } else if (kind == "NFC") {
      spec_.normalizer.push_back({.kind = NormalizerStep::Kind::kNfc});
    } else if (kind == "Prepend") {
      spec_.normalizer.push_back(
          {.kind = NormalizerStep::Kind::kPrepend, .to = text(json, "prepend")});
    } else if (kind == "Replace") {
      spec_.normalizer.push_back({.kind = NormalizerStep::Kind::kReplace,
                                  .from = literal(json, "normalizer Replace"),
                                  .to = text(json, "content")});
    } else {
      unsupported(fmt::format("normalizer '{}'", kind));
    }
  }

  // The text of {"pattern": {"String": text}}.
  std::string literal(const Json& json, std::string_view where) const {
    const Json& pattern = member(json, "pattern");
    if (!pattern.is_object() || !pattern.contains("String")) {
      unsupported(fmt::format("{} with anything but a String pattern", where));
    }
    std::string value = text(pattern, "String");
    if (value.empty()) corrupt(fmt::format("{} has an empty pattern", where));
    return value;
  }

  // ---- pre-tokenizer

  void read_pre_tokenizer(const Json& json) {
    if (json.is_null()) return;
    const std::string kind = type(json, "pre_tokenizer");
    // What follows ByteLevel sees characters that are bytes.
    if (byte_level_ && kind != "Split" && kind != "Digits" && kind != "Punctuation")
      unsupported(fmt::format("pre-tokenizer '{}' after ByteLevel", kind));
    if (kind == "Sequence") {
      for (const Json& step : list(json, "pretokenizers")) {
        if (step.is_object() && member(step, "type") == "Sequence") {
          unsupported("a pre-tokenizer Sequence inside a Sequence");
        }
        read_pre_tokenizer(step);
      }
    } else if (kind == "Split") {
      PreTokenizerStep step;
      step.pattern = split_pattern(json);
      step.behavior = behavior(text(json, "behavior"));
      step.invert = flag(json, "invert", false);
      step.of_bytes = byte_level_;
      spec_.pre_steps.push_back(step);
    } else if (kind == "Digits") {
      PreTokenizerStep step;
      step.pattern = digit_pattern();
      step.behavior = flag(json, "individual_digits", false) ? SplitBehavior::kIsolated
                                                             : SplitBehavior::kContiguous;
      step.of_bytes = byte_level_;
      spec_.pre_steps.push_back(step);
    } else if (kind == "Punctuation") {
      PreTokenizerStep step;
      step.pattern = punctuation_pattern();
      // Older files leave it out.
      if (json.contains("behavior")) step.behavior = behavior(text(json, "behavior"));
      step.of_bytes = byte_level_;
      spec_.pre_steps.push_back(step);
    } else if (kind == "ByteLevel") {
      byte_level_ = true;
      if (flag(json, "add_prefix_space", true)) {
        spec_.pre_steps.push_back({.kind = PreTokenizerStep::Kind::kPrefix, .to = " "});
        spec_.strip_leading_space = false;  // nor does Hugging Face's ByteLevel decoder
      }
      if (flag(json, "use_regex", true)) {
        PreTokenizerStep step;
        step.pattern = gpt2_pattern();
        spec_.pre_steps.push_back(step);
      }
    } else if (kind == "Metaspace") {
      read_metaspace(json);
    } else {
      unsupported(fmt::format("pre-tokenizer '{}'", kind));
    }
  }

  std::string split_pattern(const Json& json) const {
    const Json& pattern = member(json, "pattern");
    if (pattern.is_object() && pattern.contains("Regex")) return text(pattern, "Regex");
    return Pattern::quote(literal(json, "pre-tokenizer Split"));
  }

  SplitBehavior behavior(const std::string& name) const {
    if (name == "Isolated") return SplitBehavior::kIsolated;
    if (name == "Removed") return SplitBehavior::kRemoved;
    if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
    if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
    if (name == "Contiguous") return SplitBehavior::kContiguous;
    unsupported(fmt::format("pre-tokenizer Split with behavior '{}'", name));
  }

  void read_metaspace(const Json& json) {
    if (text(json, "replacement") != kSpaceMarker) {
      unsupported("Metaspace with a replacement other than U+2581");
    }
    // Files from before tokenizers 0.15 say add_prefix_space instead.
    std::string scheme = flag(json, "add_prefix_space", true) ? "always" : "never";
    if (json.contains("prepend_scheme")) scheme = text(json, "prepend_scheme");
    spec_.pre_steps.push_back(
        {.kind = PreTokenizerStep::Kind::kReplace, .from = " ", .to = std::string(kSpaceMarker)});
    if (scheme == "always" || scheme == "first") {
      spec_.pre_steps.push_back({.kind = PreTokenizerStep::Kind::kPrefix,
                                 .to = std::string(kSpaceMarker),
                                 .only_first = scheme == "first"});
    } else if (scheme != "never") {
      unsupported(fmt::format("Metaspace with prepend_scheme '{}'", scheme));
    }
    if (flag(json, "split", true)) {
      PreTokenizerStep step;
      step.pattern = kSpaceMarker;
      step.behavior = SplitBehavior::kMergedWithNext;
      spec_.pre_steps.push_back(step);
    }
  }

  // ---- decoder: checked, not interpreted; the three kinds of vocabulary imply theirs

  void read_decoder(const Json& json) {
    std::vector<const Json*> steps;
    if (!json.is_null() && type(json, "decoder") == "Sequence") {
      for (const Json& step : list(json, "decoders")) steps.push_back(&step);
    } else if (!json.is_null()) {
      steps.push_back(&json);
    }
    bool bytes = false;
    for (const Json* step : steps) {
      const std::string kind = type(*step, "decoder");
      if (kind == "ByteLevel" && byte_level_) {
        bytes = true;
      } else if (kind == "Replace" && !byte_level_ &&
                 literal(*step, "decoder Replace") == kSpaceMarker &&
                 text(*step, "content") == " ") {
      } else if ((kind == "ByteFallback" || kind == "Fuse") && !byte_level_) {
      } else if (kind == "Strip" && !byte_level_ && text(*step, "content") == " " &&
                 member(*step, "start") == 1 && member(*step, "stop") == 0) {
        spec_.strip_leading_space = true;
      } else if (kind == "Metaspace" && !byte_level_) {
        const Json& scheme = member(*step, "prepend_scheme");
        spec_.strip_leading_space =
            scheme.is_string() ? scheme != "never" : flag(*step, "add_prefix_space", true);
      } else {
        unsupported(fmt::format("decoder '{}' with this pre-tokenizer", kind));
      }
    }
    if (byte_level_ && !bytes) unsupported("ByteLevel pre-tokenizer without ByteLevel decoder");
  }

  // ---- model

  void read_model(const Json& json) {
    // Old files leave the type out; only a BPE has merges.
    const std::string kind = json.is_object() && !json.contains("type") && json.contains("merges")
                                 ? "BPE"
                                 : type(json, "model");
    if (kind != "BPE") unsupported(fmt::format("model '{}'", kind));
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json& value = member(json, key);
      if (!value.is_null() && value != "") unsupported(fmt::format("model BPE with {}", key));
    }
    const Json& dropout = member(json, "dropout");
    if (!dropout.is_null() && dropout != 0.0) unsupported("model BPE with dropout");
    spec_.ignore_merges = flag(json, "ignore_merges", false);
    const bool byte_fallback = flag(json, "byte_fallback", false);
    if (byte_level_) {
      spec_.kind = TokenizerKind::kByteLevelBpe;
    } else if (byte_fallback) {
      spec_.kind = TokenizerKind::kMergesWithByteFallback;
    } else {
      unsupported("model BPE with neither ByteLevel nor byte_fallback");
    }
    read_vocabulary(member(json, "vocab"));
    if (!byte_level_) mark_byte_tokens();
    read_merges(list(json, "merges"));
    const Json& unknown = member(json, "unk_token");
    if (unknown.is_string() && !byte_level_) {
      spec_.unk = required_id(unknown.get<std::string>(), "model.unk_token");
    }
  }

  void read_vocabulary(const Json& json) {
    if (!json.is_object()) corrupt("'model.vocab' is not an object");
    // Numbers may have holes (filled by added tokens later), but not so that a small file asks for
    // a large table.
    size_limit_ = 2 * json.size() + 65536;
    for (const auto& [token, value] : json.items()) {
      place(token, id(value, fmt::format("token '{}'", token)), TokenKind::kNormal);
    }
  }

  void place(const std::string& token, int32_t number, TokenKind kind) {
    const auto at = static_cast<size_t>(number);
    if (at >= size_limit_) {
      corrupt(fmt::format("token '{}' has id {}, far beyond the {} tokens there are", token, number,
                          ids_.size()));
    }
    if (at >= spec_.tokens.size()) {
      spec_.tokens.resize(at + 1);
      spec_.token_kinds.resize(at + 1, TokenKind::kUnused);
      taken_.resize(at + 1);
    }
    if (taken_[at] && spec_.tokens[at] != token) {
      corrupt(fmt::format("tokens '{}' and '{}' both have id {}", spec_.tokens[at], token, number));
    }
    const auto [it, fresh] = ids_.emplace(token, number);
    if (!fresh && it->second != number) {
      corrupt(fmt::format("token '{}' has the ids {} and {}", token, it->second, number));
    }
    spec_.tokens[at] = token;
    spec_.token_kinds[at] = kind;
    taken_[at] = true;
  }

  void mark_byte_tokens() {
    for (int byte = 0; byte < 256; ++byte) {
      const std::string token = fmt::format("<0x{:02X}>", byte);
      const auto it = ids_.find(token);
      // Hugging Face falls back to bytes only where all of a character's bytes are tokens.
      if (it == ids_.end()) unsupported(fmt::format("byte_fallback without the token {}", token));
      spec_.token_kinds[static_cast<size_t>(it->second)] = TokenKind::kByte;
    }
  }

  void read_merges(const Json& merges) {
    spec_.merges.reserve(merges.size());
    for (const Json& merge : merges) {
      std::string left, right;
      if (merge.is_string()) {
        const auto& line = merge.get_ref<const std::string&>();
        const size_t space = line.find(' ');
        if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
          corrupt(fmt::format("merge {} is '{}', not two tokens", spec_.merges.size(), line));
        }
        left = line.substr(0, space);
        right = line.substr(space + 1);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      } else {
        corrupt(fmt::format("merge {} is neither a string nor a pair", spec_.merges.size()));
      }
      const std::string where = fmt::format("merge {}", spec_.merges.size());
      spec_.merges.push_back({required_id(left, where), required_id(right, where)});
    }
  }

  int32_t required_id(const std::string& token, std::string_view where) const {
    const auto it = ids_.find(token);
    if (it == ids_.end()) corrupt(fmt::format("{} names '{}', which is no token", where, token));
    return it->second;
  }

  // ---- added tokens

  void read_added(const Json& json) {
    if (json.is_null()) return;
    if (!json.is_array()) corrupt("'added_tokens' is not a list");
    size_limit_ += 2 * json.size();
    for (const Json& entry : json) {
      if (!entry.is_object()) corrupt("an added token is not an object");
      const std::string content = text(entry, "content");
      if (content.empty()) corrupt("an added token has no content");
      if (flag(entry, "single_word", false)) {
        unsupported(fmt::format("added token '{}' with single_word", content));
      }
      AddedToken token;
      token.id = id(member(entry, "id"), fmt::format("added token '{}'", content));
      token.lstrip = flag(entry, "lstrip", false);
      token.rstrip = flag(entry, "rstrip", false);
      const bool special = flag(entry, "special", false);
      token.normalized = flag(entry, "normalized", !special) && !special;
      place(content, token.id, special ? TokenKind::kControl : TokenKind::kUserDefined);
      spec_.added.push_back(token);
    }
  }

  // ---- post-processor

  void read_post_processor(const Json& json) {
    if (json.is_null()) return;
    const std::string kind = type(json, "post_processor");
    if (kind == "ByteLevel") return;  // moves offsets, not ids
    if (kind == "Sequence") {
      for (const Json& step : list(json, "processors")) {
        if (step.is_object() && member(step, "type") == "Sequence") {
          unsupported("a post-processor Sequence inside a Sequence");
        }
        read_post_processor(step);
      }
      return;
    }
    if (kind != "TemplateProcessing") unsupported(fmt::format("post-processor '{}'", kind));
    bool text_seen = false;
    for (const Json& item : list(json, "single")) {
      if (item.is_object() && item.contains("Sequence")) {
        if (text_seen) unsupported("TemplateProcessing that repeats the text");
        text_seen = true;
      } else if (item.is_object() && item.contains("SpecialToken")) {
        const int32_t token = template_token(json, text(item["SpecialToken"], "id"));
        bool& wanted = text_seen ? spec_.add_eos : spec_.add_bos;
        if (wanted) unsupported("TemplateProcessing with two special tokens on one side");
        wanted = true;
        (text_seen ? spec_.eos : spec_.bos) = token;
      } else {
        corrupt("TemplateProcessing has an item that is neither Sequence nor SpecialToken");
      }
    }
  }

  int32_t template_token(const Json& json, const std::string& name) const {
    const Json& entry = member(member(json, "special_tokens"), name.c_str());
    const Json& numbers = entry.is_object() ? member(entry, "ids") : entry;
    if (!numbers.is_array() || numbers.size() != 1) {
      corrupt(fmt::format("TemplateProcessing names '{}', which is not one token", name));
    }
    const int32_t number = id(numbers[0], fmt::format("'{}'", name));
    if (static_cast<size_t>(number) >= spec_.tokens.size()) {
      corrupt(
          fmt::format("TemplateProcessing: id {} of '{}' is beyond the vocabulary", number, name));
    }
    return number;
  }

  // ---- the files beside it

  void read_config() {
    path_ = folder_ / "tokenizer_config.json";
    if (!std::filesystem::exists(path_)) return;
    const Json config = parse(path_);
    // What the post-processor puts around the text is what training saw; names only fill gaps.
    if (!spec_.add_bos) set_special(config, "bos_token", spec_.bos);
    if (!spec_.add_eos) set_special(config, "eos_token", spec_.eos);
    if (spec_.unk < 0) set_special(config, "unk_token", spec_.unk);
    set_special(config, "pad_token", spec_.pad);
  }

  // A name, or an object with the name as its content; absent and null leave `out` alone.
  void set_special(const Json& config, const char* key, int32_t& out) const {
    const Json& value = member(config, key);
    if (value.is_null()) return;
    const std::string name = value.is_object() ? text(value, "content") : text(config, key);
    const auto it = ids_.find(name);
    if (it != ids_.end()) out = it->second;
  }

  void read_generation_config() {
    path_ = folder_ / "generation_config.json";
    if (!std::filesystem::exists(path_)) return;
    const Json config = parse(path_);
    const Json& ends = member(config, "eos_token_id");
    if (ends.is_null()) return;
    for (const Json& value : ends.is_array() ? ends : Json::array({ends})) {
      const int32_t number = id(value, "'eos_token_id'");
      if (static_cast<size_t>(number) >= spec_.tokens.size()) {
        corrupt(fmt::format("eos_token_id {} is beyond the vocabulary of {}", number,
                            spec_.tokens.size()));
      }
      spec_.end_of_generation.push_back(number);
    }
  }

  const std::filesystem::path& folder_;
  std::filesystem::path path_;  // being read
  TokenizerSpec spec_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<bool> taken_;
  size_t size_limit_ = 0;
  bool byte_level_ = false;
};

}  // namespace

TokenizerSpec tokenizer_spec_from_hf(const std::filesystem::path& folder) {
  return HfTokenizerReader(folder).read();
}

}  // namespace lowkey
