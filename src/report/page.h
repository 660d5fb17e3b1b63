#pragma once
// One HTML page that needs nothing else: our page, its data, and plotly.js packed inside.
// Torch-free, thread-safe.
#include <string>
#include <string_view>

namespace lowkey {

// Text as the content of an element or of a quoted attribute.
std::string escape_html(std::string_view text);

// JSON text as the content of a <script> element: the same JSON, without a single '<', so that no
// string in it can end the element.
std::string escape_json_for_script(std::string_view json);

struct PageContents {
  std::string_view title;      // plain text
  std::string_view data;       // JSON text, which the page's scripts read
  std::string_view plotly_gz;  // plotly.js, gzip-compressed
};

// Throws Error kUnsupported where plotly_gz is empty.
std::string make_page(const PageContents& contents);

}  // namespace lowkey
