#include "report/report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "report/embedded.h"
#include "report/page.h"

namespace lowkey {
namespace {

using Json = nlohmann::json;

constexpr int64_t kVersion = 1;  // of all documents

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  fail(ErrorCode::kInvalidArgument, "report: {}", fmt::format(format, std::forward<Args>(args)...));
}

Json parse(std::string_view text) {
  Json document = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) refuse("its data is not valid JSON");
  if (!document.is_object()) refuse("its data is not an object");
  return document;
}

// `marker` is the field that says what a document is, and its version.
void expect_version(const Json& document, const char* marker) {
  const auto version = document.find(marker);
  if (version == document.end()) refuse("its data has no '{}': another kind of file?", marker);
  if (!version->is_number_integer() || *version != kVersion) {
    refuse("'{}' is {}, this program reads {}", marker, version->dump(), kVersion);
  }
}

// `path` names `value` in messages.
const Json& array_in(const Json& value, const char* name, std::string_view path) {
  const auto found = value.is_object() ? value.find(name) : value.end();
  if (!value.is_object() || found == value.end() || !found->is_array()) {
    refuse("'{}{}' is no list", path, name);
  }
  return *found;
}

std::string text_in(const Json& document, const char* name) {
  const auto found = document.find(name);
  if (found == document.end() || !found->is_string()) refuse("'{}' is no text", name);
  return found->get<std::string>();
}

void check_probe(const Json& probe) {
  if (!probe.is_object()) refuse("'probe' is no object");
  expect_version(probe, "lowkey_probe");
  text_in(probe, "model");
  array_in(probe, "candidates", "");
  array_in(probe, "layers", "");
}

void check_report(const Json& report) {
  expect_version(report, "lowkey_report");
  text_in(report, "title");
  const auto front = report.find("front");
  if (front == report.end()) refuse("'front' is missing");
  const Json& points = array_in(*front, "points", "front.");
  array_in(*front, "references", "front.");
  const Json& point_layers = array_in(report, "point_layers", "");
  if (point_layers.size() != points.size()) {
    refuse("'point_layers' has {} entries for {} points", point_layers.size(), points.size());
  }
  for (const Json& use : array_in(report, "use", "")) {
    const auto point = use.is_object() ? use.find("point") : use.end();
    if (!use.is_object() || point == use.end()) refuse("'use': an entry names no point");
    if (point->is_null()) continue;
    if (!point->is_number_integer() || *point < 0 || *point >= points.size()) {
      refuse("'use': point {} of {}", point->dump(), points.size());
    }
  }
  const auto probe = report.find("probe");
  if (probe != report.end() && !probe->is_null()) check_probe(*probe);
}

void check_calibration(const Json& calibration) {
  expect_version(calibration, "lowkey_calibration");
  text_in(calibration, "model");
  text_in(calibration, "student");
  for (const char* name : {"prefix", "training"}) {
    const auto part = calibration.find(name);
    if (part == calibration.end() || !part->is_object()) refuse("'{}' is no object", name);
  }
  if (array_in(calibration["training"], "curve", "training.").empty()) {
    refuse("'training.curve' is empty");
  }
}

void check_pivots(const Json& pivots) {
  expect_version(pivots, "lowkey_pivots");
  text_in(pivots, "model");
  const Json& forms = array_in(pivots, "forms", "");
  for (size_t i = 0; i < forms.size(); ++i) {
    const std::string path = fmt::format("forms[{}].", i);
    for (const Json& document : array_in(forms[i], "documents", path)) {
      array_in(document, "found", path + "documents.");
      array_in(document, "pivot_attention", path + "documents.");
    }
    array_in(forms[i], "errors", path);
  }
}

}  // namespace

std::string tune_report_html(std::string_view report_json) {
  const Json report = parse(report_json);
  check_report(report);
  return make_page({text_in(report, "title") + ": lowkey tune", report_json, plotly_gz()});
}

std::string probe_report_html(std::string_view probe_json) {
  const Json probe = parse(probe_json);
  check_probe(probe);
  return make_page({text_in(probe, "model") + ": lowkey probe", probe_json, plotly_gz()});
}

std::string calibration_report_html(std::string_view calibration_json) {
  const Json calibration = parse(calibration_json);
  check_calibration(calibration);
  return make_page(
      {text_in(calibration, "student") + ": lowkey calibrate", calibration_json, plotly_gz()});
}

std::string pivots_report_html(std::string_view pivots_json) {
  const Json pivots = parse(pivots_json);
  check_pivots(pivots);
  return make_page(
      {text_in(pivots, "model") + ": lowkey probe --pivots", pivots_json, plotly_gz()});
}

}  // namespace lowkey
