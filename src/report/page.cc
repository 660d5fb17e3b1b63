#include "report/page.h"

#include "core/error.h"
#include "report/base64.h"
#include "report/embedded.h"

namespace lowkey {
namespace {

// All scripts in one element: they share the names they declare.
std::string all_scripts() {
  std::string all;
  for (const EmbeddedFile& script : page_scripts()) all += script.text;
  return all;
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&': escaped += "&amp;"; break;
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '"': escaped += "&quot;"; break;
      case '\'': escaped += "&#39;"; break;
      default: escaped += c;
    }
  }
  return escaped;
}

std::string escape_json_for_script(std::string_view json) {
  // Outside its strings JSON has no '<', and inside them this is another way to write one.
  std::string escaped;
  escaped.reserve(json.size());
  for (const char c : json) {
    if (c == '<') {
      escaped += "\\u003c";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string make_page(const PageContents& contents) {
  if (contents.plotly_gz.empty()) {
    fail(ErrorCode::kUnsupported,
         "report: this program was built without plotly.js, which draws a report's plots; run "
         "'./dev setup', configure again and build");
  }
  const struct {
    std::string_view name;
    std::string text;
  } parts[] = {
      {"title", escape_html(contents.title)},
      {"style", std::string(page_style())},
      {"data", escape_json_for_script(contents.data)},
      {"plotly", base64(contents.plotly_gz)},
      {"scripts", all_scripts()},
  };

  // "{{name}}" once each, in one pass: what is put in is never looked at again.
  std::string page;
  std::string_view rest = page_template();
  for (size_t open; (open = rest.find("{{")) != std::string_view::npos;) {
    const size_t close = rest.find("}}", open);
    LOWKEY_CHECK(close != std::string_view::npos, "the page's template has a '{{{{' without end");
    const std::string_view name = rest.substr(open + 2, close - open - 2);
    page += rest.substr(0, open);
    bool found = false;
    for (const auto& part : parts) {
      if (part.name != name) continue;
      page += part.text;
      found = true;
    }
    LOWKEY_CHECK(found, "the page's template asks for '{}'", name);
    rest.remove_prefix(close + 2);
  }
  return page.append(rest);
}

}  // namespace lowkey
