// write_report tune|probe|calibration DATA.json PAGE.html: for the test that opens pages in a
// browser. Exits with 77 in a build without plotly.js.
#include <fmt/format.h>

#include <cstdio>
#include <string_view>

#include "core/error.h"
#include "core/files.h"
#include "report/embedded.h"
#include "report/report.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  if (lowkey::plotly_gz().empty()) {
    fmt::print("built without plotly.js\n");
    return 77;
  }
  try {
    const std::string data = lowkey::read_file(argv[2]);
    const std::string_view kind = argv[1];
    lowkey::write_file_atomically(argv[3], kind == "tune" ? lowkey::tune_report_html(data)
                                           : kind == "probe"
                                               ? lowkey::probe_report_html(data)
                                               : lowkey::calibration_report_html(data));
  } catch (const lowkey::Error& error) {
    fmt::print(stderr, "write_report: {}\n", error.what());
    return 1;
  }
  return 0;
}
