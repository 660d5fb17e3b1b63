#pragma once
// The files of src/report/page/ and plotly.js, as they were when the library was built. Torch-free,
// thread-safe.
#include <span>
#include <string_view>

namespace lowkey {

struct EmbeddedFile {
  std::string_view name;
  std::string_view text;
};

std::string_view page_template();
std::string_view page_style();
std::span<const EmbeddedFile> page_scripts();  // in the order in which they run

// plotly.js (MIT licence), gzip-compressed; empty in a program that was built without it.
std::string_view plotly_gz();

}  // namespace lowkey
