#include "report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "report/base64.h"
#include "report/embedded.h"
#include "report/page.h"

namespace lowkey {
namespace {

using Json = nlohmann::json;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// A gzip file holds no "{{": it would not matter if it did.
constexpr std::string_view kAnyPlotly = "\x1f\x8b not opened here";

Json small_report() {
  const Json point = {{"recipe", "kivi-4:r32+i1"}, {"code_bits", 4.0},
                      {"stored_bits", 5.1},        {"kl", 0.0042},
                      {"kl_ci", 0.0004},           {"kl_heldout", 0.005}};
  return {
      {"lowkey_report", 1},
      {"title", "model.gguf"},
      {"front", {{"points", {point}}, {"references", {point}}}},
      {"point_layers", {{{4, 4}, {4, 4}}}},
      {"use", {{{"need", "lossless"}, {"what", "no loss"}, {"point", 0}, {"command", "run"}}}},
      {"probe", nullptr},
  };
}

Json small_probe() {
  return {{"lowkey_probe", 1},
          {"model", "model.gguf"},
          {"candidates", {"KV4"}},
          {"layers", Json::array()}};
}

Json small_calibration() {
  return {{"lowkey_calibration", 1},
          {"model", "model.gguf"},
          {"student", "w3"},
          {"prefix", {{"tokens", 1}}},
          {"training", {{"curve", {{{"step", 0}, {"heldout", 0.5}}}}}}};
}

Json small_pivots() {
  const Json document = {
      {"name", "bos 1"}, {"found", Json::array()}, {"pivot_attention", {0.5, 0.6}}};
  return {
      {"lowkey_pivots", 1},
      {"model", "model.gguf"},
      {"forms",
       {{{"form", "bos"}, {"prefix", 1}, {"documents", {document}}, {"errors", Json::array()}}}}};
}

// What is thrown; pages need plotly.js, their errors do not.
std::string error_of(const std::function<void()>& make, ErrorCode code) {
  try {
    make();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "nothing thrown";
}

std::string refusal(const std::string& text) {
  return error_of([&] { tune_report_html(text); }, ErrorCode::kInvalidArgument);
}

std::string between(const std::string& text, std::string_view begin, std::string_view end) {
  const size_t from = text.find(begin);
  if (from == std::string::npos) return "";
  const size_t first = from + begin.size();
  return text.substr(first, text.find(end, first) - first);
}

TEST(Base64, IsThatOfRfc4648) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(base64(std::string_view("\xff\xfe\x00\x80", 4)), "//4AgA==");
}

TEST(Page, TextsAreEscapedForTheirPlace) {
  EXPECT_EQ(escape_html("a<b>&\"c\"'d'"), "a&lt;b&gt;&amp;&quot;c&quot;&#39;d&#39;");
  EXPECT_EQ(escape_json_for_script(R"({"a":"</script><!--"})"),
            R"({"a":"\u003c/script>\u003c!--"})");
  // The same JSON as before.
  const std::string hostile = R"(["</script><img src=x onerror=alert(1)>", "<!--", 1e-300])";
  EXPECT_EQ(Json::parse(escape_json_for_script(hostile)), Json::parse(hostile));
}

TEST(Page, HoldsItsPartsAndNothingElse) {
  const std::string page = make_page({"a title", R"({"x":1})", kAnyPlotly});
  EXPECT_THAT(page, StartsWith("<!doctype html>"));
  EXPECT_THAT(page, EndsWith("</html>\n"));
  EXPECT_THAT(page, HasSubstr("<title>a title</title>"));
  EXPECT_THAT(page, HasSubstr(R"(<script type="application/json" id="data">{"x":1}</script>)"));
  EXPECT_THAT(page, HasSubstr(base64(kAnyPlotly)));
  EXPECT_THAT(page, HasSubstr(std::string(page_style())));
  for (const EmbeddedFile& script : page_scripts()) {
    EXPECT_THAT(script.text, StartsWith("\"use strict\";\n")) << script.name;
    EXPECT_THAT(script.text, Not(HasSubstr("</script"))) << script.name;
    EXPECT_THAT(page, HasSubstr(std::string(script.text))) << script.name;
  }
  EXPECT_THAT(page, Not(HasSubstr("{{")));
}

TEST(Page, AsksNoServer) {
  const std::string page = make_page({"a title", "{}", kAnyPlotly});
  EXPECT_THAT(page, AllOf(Not(HasSubstr("http://")), Not(HasSubstr("https://")),
                          Not(HasSubstr("src=")), Not(HasSubstr("@import"))));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
}

TEST(Page, WhatIsPutInIsNotLookedAtAgain) {
  const std::string page = make_page({"{{style}}", R"(["{{scripts}}"])", kAnyPlotly});
  EXPECT_THAT(page, HasSubstr("<title>{{style}}</title>"));
  EXPECT_THAT(page, HasSubstr(R"(["{{scripts}}"])"));
}

TEST(Page, WithoutPlotlyThereIsNoPage) {
  EXPECT_THAT(error_of(
                  [] {
                    make_page({"title", "{}", ""});
                  },
                  ErrorCode::kUnsupported),
              AllOf(HasSubstr("plotly.js"), HasSubstr("./dev setup"), Not(HasSubstr("\n"))));
}

class Pages : public testing::Test {
 protected:
  void SetUp() override {
    if (plotly_gz().empty()) GTEST_SKIP() << "built without plotly.js";
  }
};

TEST_F(Pages, PlotlyIsTheWholeGzipFile) {
  EXPECT_THAT(plotly_gz(), StartsWith("\x1f\x8b"));
  // Its last four bytes are the size of what is packed: plotly.min.js has 4.8 MB.
  uint32_t size = 0;
  for (size_t i = 0; i < 4; ++i) {
    size |= static_cast<uint32_t>(static_cast<uint8_t>(plotly_gz()[plotly_gz().size() - 4 + i]))
            << (8 * i);
  }
  EXPECT_GT(size, 4'000'000U);
  EXPECT_LT(size, 6'000'000U);
}

TEST_F(Pages, DataComesBackAsItWas) {
  for (const bool has_probe : {false, true}) {
    Json report = small_report();
    report["title"] = "</script><img src=x onerror=alert(1)>";
    if (has_probe) report["probe"] = small_probe();
    const std::string page = tune_report_html(report.dump());
    EXPECT_THAT(page, HasSubstr("<title>&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;: "));
    EXPECT_THAT(page, Not(HasSubstr("<img")));
    EXPECT_EQ(Json::parse(between(page, R"(id="data">)", "</script>")), report);
    EXPECT_LT(page.size(), 2'500'000U);
  }
}

TEST_F(Pages, AProbeHasAPageOfItsOwn) {
  const std::string page = probe_report_html(small_probe().dump());
  EXPECT_EQ(Json::parse(between(page, R"(id="data">)", "</script>")), small_probe());
  EXPECT_THAT(page, HasSubstr("<title>model.gguf: lowkey probe</title>"));
}

TEST_F(Pages, ACalibrationHasAPageOfItsOwn) {
  const std::string page = calibration_report_html(small_calibration().dump());
  EXPECT_EQ(Json::parse(between(page, R"(id="data">)", "</script>")), small_calibration());
  EXPECT_THAT(page, HasSubstr("<title>w3: lowkey calibrate</title>"));
}

TEST(Reports, ACalibrationNeedsItsCurve) {
  const auto refused = [](const Json& document) {
    return error_of([&] { calibration_report_html(document.dump()); }, ErrorCode::kInvalidArgument);
  };
  EXPECT_EQ(refused(small_probe()),
            "report: its data has no 'lowkey_calibration': another kind of file?");
  Json document = small_calibration();
  document["training"]["curve"] = Json::array();
  EXPECT_EQ(refused(document), "report: 'training.curve' is empty");
  document.erase("training");
  EXPECT_EQ(refused(document), "report: 'training' is no object");
  document.erase("student");
  EXPECT_EQ(refused(document), "report: 'student' is no text");
}

TEST_F(Pages, PivotsHaveAPageOfTheirOwn) {
  const std::string page = pivots_report_html(small_pivots().dump());
  EXPECT_THAT(page, HasSubstr("<title>model.gguf: lowkey probe --pivots</title>"));
  EXPECT_THAT(page, HasSubstr("buildPivots(data)"));
}

TEST_F(Pages, AReportMayLackItsProbe) {
  Json report = small_report();
  report.erase("probe");
  EXPECT_NO_THROW(tune_report_html(report.dump()));
}

TEST_F(Pages, TheSameDataMakeTheSamePage) {
  EXPECT_EQ(tune_report_html(small_report().dump()), tune_report_html(small_report().dump()));
}

TEST(Reports, OtherTextIsRefused) {
  EXPECT_EQ(refusal("{"), "report: its data is not valid JSON");
  EXPECT_EQ(refusal("\"\xff\""), "report: its data is not valid JSON");
  EXPECT_EQ(refusal("[1]"), "report: its data is not an object");
  EXPECT_EQ(refusal("{}"), "report: its data has no 'lowkey_report': another kind of file?");
  EXPECT_EQ(refusal(small_probe().dump()),
            "report: its data has no 'lowkey_report': another kind of file?");
  EXPECT_EQ(error_of([] { probe_report_html(small_report().dump()); }, ErrorCode::kInvalidArgument),
            "report: its data has no 'lowkey_probe': another kind of file?");
}

TEST(Reports, PivotsAreChecked) {
  const auto message = [](const Json& pivots) {
    return error_of([&] { pivots_report_html(pivots.dump()); }, ErrorCode::kInvalidArgument);
  };
  EXPECT_EQ(message(small_probe()),
            "report: its data has no 'lowkey_pivots': another kind of file?");
  Json pivots = small_pivots();
  pivots["forms"][0].erase("errors");
  EXPECT_EQ(message(pivots), "report: 'forms[0].errors' is no list");
  pivots = small_pivots();
  pivots["forms"][0]["documents"][0].erase("found");
  EXPECT_EQ(message(pivots), "report: 'forms[0].documents.found' is no list");
}

TEST(Reports, FieldsThatThePageNeedsAreChecked) {
  const struct {
    const char* pointer;
    Json value;
    const char* message;
  } cases[] = {
      {"/lowkey_report", 2, "report: 'lowkey_report' is 2, this program reads 1"},
      {"/lowkey_report", "1", "report: 'lowkey_report' is \"1\", this program reads 1"},
      {"/title", 3, "report: 'title' is no text"},
      {"/front", Json::array(), "report: 'front.points' is no list"},
      {"/front/points", 1, "report: 'front.points' is no list"},
      {"/front/references", nullptr, "report: 'front.references' is no list"},
      {"/point_layers", Json::array(), "report: 'point_layers' has 0 entries for 1 points"},
      {"/use", "x", "report: 'use' is no list"},
      {"/use/0", 7, "report: 'use': an entry names no point"},
      {"/use/0/point", 1, "report: 'use': point 1 of 1"},
      {"/use/0/point", -1, "report: 'use': point -1 of 1"},
      {"/use/0/point", 0.5, "report: 'use': point 0.5 of 1"},
      {"/probe", 1, "report: 'probe' is no object"},
      {"/probe", Json::object(), "report: its data has no 'lowkey_probe': another kind of file?"},
      {"/probe",
       {{"lowkey_probe", 1}, {"model", "m"}, {"candidates", 1}},
       "report: 'candidates' is no list"},
  };
  for (const auto& c : cases) {
    Json report = small_report();
    report[Json::json_pointer(c.pointer)] = c.value;
    EXPECT_EQ(refusal(report.dump()), c.message) << c.pointer;
  }
  Json report = small_report();
  report.erase("front");
  EXPECT_EQ(refusal(report.dump()), "report: 'front' is missing");
}

}  // namespace
}  // namespace lowkey
