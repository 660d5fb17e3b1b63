#pragma once
// Regular expressions of pre-tokenizers, on PCRE2 (JIT where the machine allows it). Patterns come
// from model files: they are bounded in size and steps, and constructs that regex libraries define
// differently are refused instead of guessed. Torch-free; a Pattern is immutable and thread-safe,
// a Matcher belongs to one thread.
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace lowkey {

class Pattern {
 public:
  // `source` as written for Oniguruma or Rust, whose \s is Unicode's White_Space property. Throws
  // Error kUnsupported: it does not compile, or uses \w, \b, \h, [[:class:]] or set operators.
  explicit Pattern(std::string_view source);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  // The pattern that matches exactly `text`.
  static std::string quote(std::string_view text);

  const std::string& source() const { return source_; }

 private:
  friend class Matcher;
  struct Code;
  std::string source_;
  std::unique_ptr<const Code> code_;
};

class Matcher {
 public:
  explicit Matcher(const Pattern& pattern);
  ~Matcher();
  Matcher(Matcher&&) noexcept;

  struct Match {
    size_t begin = 0, end = 0;
  };

  // The first match in `subject` at or after `from`; false if there is none. `subject` must be
  // valid UTF-8; nothing outside it is seen, by lookarounds neither. Throws Error kInvalidArgument
  // if the search takes too many steps.
  bool find(std::string_view subject, size_t from, Match& match);

 private:
  struct State;
  const Pattern* pattern_;
  std::unique_ptr<State> state_;
};

}  // namespace lowkey
