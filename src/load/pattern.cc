#include "load/pattern.h"

#include <cstdint>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/error.h"

namespace lowkey {

namespace {

constexpr size_t kMaxPatternBytes = 16 * 1024;
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

[[noreturn]] void refuse(std::string_view source, std::string_view why) {
  fail(ErrorCode::kUnsupported, "pre-tokenizer pattern '{}': {}", source, why);
}

// PCRE2's \s adds U+180E to Unicode's White_Space; everything else that means the same in PCRE2 and
// in the libraries these patterns were written for passes through.
std::string translate(std::string_view source) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < source.size(); ++i) {
    const char c = source[i];
    const char next = i + 1 < source.size() ? source[i + 1] : '\0';
    if (c == '\\') {
      switch (next) {
        case 's': out += "\\p{White_Space}"; break;
        case 'S': out += "\\P{White_Space}"; break;
        case 'w':
        case 'W':
        case 'b':
        case 'B':
        case 'h':
        case 'H':
        case 'X':
        case 'R':
        case 'C':
        case 'G':
        case 'K':
          refuse(source,
                 fmt::format("regex libraries differ on \\{}, so it is not accepted", next));
        case '\0': refuse(source, "ends in a backslash");
        default: out += c; out += next;
      }
      ++i;
      continue;
    }
    if (in_class) {
      if (c == '[') refuse(source, "'[' inside a class must be written '\\['");
      if (c == '&' && next == '&') refuse(source, "the set operator && is not accepted");
      if (c == ']') in_class = false;
    } else if (c == '[') {
      in_class = true;
      out += c;
      // ']' right after '[' or '[^' stands for itself.
      if (next == '^') out += source[++i];
      if (i + 1 < source.size() && source[i + 1] == ']') {
        out += "\\]";
        ++i;
      }
      continue;
    }
    out += c;
  }
  return out;
}

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Pattern::Code {
  pcre2_code* code;
  bool jit;

  explicit Code(pcre2_code* compiled)
      : code(compiled), jit(pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE) == 0) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

Pattern::Pattern(std::string_view source) : source_(source) {
  if (source.size() > kMaxPatternBytes) {
    fail(ErrorCode::kUnsupported, "pre-tokenizer pattern of {} bytes (at most {})", source.size(),
         kMaxPatternBytes);
  }
  const std::string translated = translate(source);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // NEVER_BACKSLASH_C and the parenthesis limit are part of treating patterns as data.
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  LOWKEY_CHECK(context != nullptr);
  pcre2_set_parens_nest_limit(context, 64);
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) refuse(source, pcre2_message(error));
  code_ = std::make_unique<const Code>(code);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

std::string Pattern::quote(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x80 || byte <= 0x20 || (byte >= '0' && byte <= '9') ||
                       (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z');
    if (!plain) out += '\\';
    out += c;
  }
  return out;
}

struct Matcher::State {
  pcre2_match_data* data;
  pcre2_match_context* context;

  explicit State(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)) {
    LOWKEY_CHECK(data != nullptr && context != nullptr);
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
  }
  ~State() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Matcher::Matcher(const Pattern& pattern)
    : pattern_(&pattern), state_(std::make_unique<State>(pattern.code_->code)) {}
Matcher::~Matcher() = default;
Matcher::Matcher(Matcher&&) noexcept = default;

bool Matcher::find(std::string_view subject, size_t from, Match& match) {
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const pcre2_code* code = pattern_->code_->code;
  int result = PCRE2_ERROR_JIT_STACKLIMIT;
  if (pattern_->code_->jit) {
    result = pcre2_match(code, text, subject.size(), from, PCRE2_NO_UTF_CHECK, state_->data,
                         state_->context);
  }
  // The interpreter keeps its backtracking points on the heap, where there is room for more.
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
    result = pcre2_match(code, text, subject.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         state_->data, state_->context);
  }
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    fail(ErrorCode::kInvalidArgument,
         "pre-tokenizer pattern '{}' gave up at byte {} of a text of {} bytes: {}",
         pattern_->source_, from, subject.size(), pcre2_message(result));
  }
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(state_->data);
  match = {offsets[0], offsets[1]};
  return true;
}

}  // namespace lowkey
