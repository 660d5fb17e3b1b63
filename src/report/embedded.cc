#include "report/embedded.h"

#include <array>
#include <cstddef>

// The assembler reads FILE (its folder is among the assembler's -I) between two symbols of its own.
// A zero byte behind it keeps the two apart where the file is empty.
#define LOWKEY_EMBED(name, file)                                      \
  __asm__(".section .rodata." #name                                   \
          ",\"a\"\n"                                                  \
          "lowkey_" #name                                             \
          "_begin:\n"                                                 \
          ".incbin \"" file                                           \
          "\"\n"                                                      \
          "lowkey_" #name "_end:\n.byte 0\n.previous\n");             \
  extern "C" {                                                        \
  extern const char name##_begin[] __asm__("lowkey_" #name "_begin"); \
  extern const char name##_end[] __asm__("lowkey_" #name "_end");     \
  }

#define LOWKEY_EMBEDDED(name) \
  std::string_view(name##_begin, static_cast<size_t>(name##_end - name##_begin))

LOWKEY_EMBED(page_html, "page.html")
LOWKEY_EMBED(style_css, "style.css")
LOWKEY_EMBED(text_js, "text.js")
LOWKEY_EMBED(elements_js, "elements.js")
LOWKEY_EMBED(recipes_js, "recipes.js")
LOWKEY_EMBED(theme_js, "theme.js")
LOWKEY_EMBED(plots_js, "plots.js")
LOWKEY_EMBED(headline_js, "headline.js")
LOWKEY_EMBED(pareto_js, "pareto.js")
LOWKEY_EMBED(layers_js, "layers.js")
LOWKEY_EMBED(points_js, "points.js")
LOWKEY_EMBED(sensitivity_js, "sensitivity.js")
LOWKEY_EMBED(probe_errors_js, "probe_errors.js")
LOWKEY_EMBED(probe_theory_js, "probe_theory.js")
LOWKEY_EMBED(probe_attention_js, "probe_attention.js")
LOWKEY_EMBED(calibration_js, "calibration.js")
LOWKEY_EMBED(pivots_js, "pivots.js")
LOWKEY_EMBED(method_js, "method.js")
LOWKEY_EMBED(main_js, "main.js")
#ifdef LOWKEY_HAVE_PLOTLY
LOWKEY_EMBED(plotly_gz, "plotly.min.js.gz")
#endif

namespace lowkey {

std::string_view page_template() {
  return LOWKEY_EMBEDDED(page_html);
}

std::string_view page_style() {
  return LOWKEY_EMBEDDED(style_css);
}

std::span<const EmbeddedFile> page_scripts() {
  static const std::array kScripts = {
      EmbeddedFile{"text.js", LOWKEY_EMBEDDED(text_js)},
      EmbeddedFile{"elements.js", LOWKEY_EMBEDDED(elements_js)},
      EmbeddedFile{"recipes.js", LOWKEY_EMBEDDED(recipes_js)},
      EmbeddedFile{"theme.js", LOWKEY_EMBEDDED(theme_js)},
      EmbeddedFile{"plots.js", LOWKEY_EMBEDDED(plots_js)},
      EmbeddedFile{"headline.js", LOWKEY_EMBEDDED(headline_js)},
      EmbeddedFile{"pareto.js", LOWKEY_EMBEDDED(pareto_js)},
      EmbeddedFile{"layers.js", LOWKEY_EMBEDDED(layers_js)},
      EmbeddedFile{"points.js", LOWKEY_EMBEDDED(points_js)},
      EmbeddedFile{"sensitivity.js", LOWKEY_EMBEDDED(sensitivity_js)},
      EmbeddedFile{"probe_errors.js", LOWKEY_EMBEDDED(probe_errors_js)},
      EmbeddedFile{"probe_theory.js", LOWKEY_EMBEDDED(probe_theory_js)},
      EmbeddedFile{"probe_attention.js", LOWKEY_EMBEDDED(probe_attention_js)},
      EmbeddedFile{"calibration.js", LOWKEY_EMBEDDED(calibration_js)},
      EmbeddedFile{"pivots.js", LOWKEY_EMBEDDED(pivots_js)},
      EmbeddedFile{"method.js", LOWKEY_EMBEDDED(method_js)},
      EmbeddedFile{"main.js", LOWKEY_EMBEDDED(main_js)},
  };
  return kScripts;
}

std::string_view plotly_gz() {
#ifdef LOWKEY_HAVE_PLOTLY
  return LOWKEY_EMBEDDED(plotly_gz);
#else
  return {};
#endif
}

}  // namespace lowkey
