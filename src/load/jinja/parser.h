#pragma once
// From tokens to a tree, by recursive descent with a limit on depth.
#include <string>
#include <string_view>

#include "load/jinja/ast.h"

namespace lowkey::jinja {

inline constexpr int kMaxNesting = 64;  // brackets, operators' right sides and blocks together

struct Template {
  std::string source;  // normalized; offsets in the tree count in it
  Block body;
};

// Throws Error kInvalidArgument naming line and column: bad syntax, unknown filters and tests,
// statements that chat templates have no business with (include, extends, ...), nesting too deep,
// a source of more than 1 MiB.
Template parse(std::string_view source);

}  // namespace lowkey::jinja
