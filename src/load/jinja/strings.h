#pragma once
// Python's string operations on text that remembers where it came from.
#include <string_view>

#include "load/jinja/value.h"

namespace lowkey::jinja {

Text upper(const Text& text, Budget& budget);
Text lower(const Text& text, Budget& budget);
Text capitalize(const Text& text, Budget& budget);   // first character upper, the others lower
Text title(const Text& text, Budget& budget);        // str.title(): after every non-letter
Text title_words(const Text& text, Budget& budget);  // the filter: after spaces, hyphens, brackets
Text strip(const Text& text, const Value* chars, bool left, bool right, Budget& budget);
// count < 0: all. An empty `from` is refused.
Text replace(const Text& text, const Text& from, const Text& to, int64_t count, Budget& budget);
// str.split(separator, max), at white space if it is null; `right`: rsplit.
List split(const Text& text, const Value* separator, int64_t max, bool right, Budget& budget);
List split_lines(const Text& text, Budget& budget);
Text join(const List& items, const Text& separator, Budget& budget);
Text repeat(const Text& text, int64_t count, Budget& budget);
Text indent(const Text& text, std::string_view prefix, bool first, bool blank, Budget& budget);

}  // namespace lowkey::jinja
