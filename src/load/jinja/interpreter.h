#pragma once
// Runs a parsed template.
#include <string>
#include <utility>
#include <vector>

#include "load/jinja/builtins.h"
#include "load/jinja/parser.h"

namespace lowkey::jinja {

using Variables = std::vector<std::pair<std::string, Value>>;

// What the template prints. Throws Error kInvalidArgument with line and column.
Text render(const Template& parsed, const Variables& globals, Context& context);

}  // namespace lowkey::jinja
