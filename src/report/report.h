#pragma once
// The HTML pages of `lowkey tune`, `probe` and `calibrate`: one file each, no network. Their input
// is JSON (docs/formats/report.md). Torch-free, thread-safe.
#include <string>
#include <string_view>

namespace lowkey {

// All throw Error kInvalidArgument for text that is no such document (not JSON, another version, a
// field that the page cannot do without), and kUnsupported in a program built without plotly.js.
std::string tune_report_html(std::string_view report_json);
std::string probe_report_html(std::string_view probe_json);
std::string calibration_report_html(std::string_view calibration_json);
std::string pivots_report_html(std::string_view pivots_json);

}  // namespace lowkey
