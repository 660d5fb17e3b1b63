#include "calibrate_output.h"

#include <fmt/format.h>

#include <cmath>

#include "table.h"
#include "terminal.h"
#include "units.h"

namespace lowkey {
namespace {

using calibrate::CurvePoint;
using calibrate::Sample;
using nlohmann::json;

constexpr int kFormatVersion = 1;
constexpr int64_t kWidth = 100;

json number(const std::optional<double>& value) {
  return value ? json(*value) : json();
}

json set_json(const std::vector<Sample>& samples) {
  int64_t tokens = 0, counted = 0;
  for (const Sample& sample : samples) {
    tokens += std::ssize(sample.tokens);
    counted += std::ssize(sample.rows);
  }
  return {{"samples", samples.size()}, {"tokens", tokens}, {"counted", counted}};
}

// Text in one line of at most `width` columns, control characters as blanks.
std::string one_line(std::string text, int width) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return fit(text, width);
}

std::string change_text(double before, double after) {
  if (before == 0) return "";
  return fmt::format(" ({:+.1f}%)", 100 * (after / before - 1));
}

std::string ending(const calibrate::CalibratedPrefix& trained) {
  const int64_t last = trained.curve.back().step;
  if (trained.best_step == 0) return fmt::format("after {} steps nothing was better", last);
  return fmt::format("at step {} of {}{}", trained.best_step, last,
                     trained.stopped_early ? ", where it stopped getting better" : "");
}

}  // namespace

json calibrate_json(const CalibrateOutcome& outcome) {
  const CalibrateVerbOptions& options = outcome.options;
  json document = {{"lowkey_calibration", kFormatVersion},
                   {"model", outcome.model},
                   {"command", "lowkey calibrate " + options.command},
                   {"what", options.what},
                   {"bits", options.bits},
                   {"prefix",
                    {{"name", outcome.prefix_name},
                     {"tokens", outcome.tokens},
                     {"text", outcome.prefix_text},
                     {"bytes", outcome.file_bytes}}}};
  if (outcome.student.empty()) return document;
  json curve = json::array();
  for (const CurvePoint& point : outcome.trained.curve) {
    curve.push_back(
        {{"step", point.step}, {"train", number(point.train)}, {"heldout", number(point.heldout)}});
  }
  document["student"] = outcome.student;
  document["training"] = {{"source", outcome.source},
                          {"train", set_json(outcome.samples.train)},
                          {"heldout", set_json(outcome.samples.heldout)},
                          {"loss", options.loss},
                          {"steps", options.steps},
                          {"accumulation", options.accumulation},
                          {"learning_rate", options.learning_rate},
                          {"weight_decay", options.weight_decay},
                          {"clip", options.clip},
                          {"seed", options.seed},
                          {"products", outcome.products},
                          {"curve", curve},
                          {"best_step", outcome.trained.best_step},
                          {"heldout_before", outcome.trained.first_heldout},
                          {"heldout_after", outcome.trained.best_heldout},
                          {"stopped_early", outcome.trained.stopped_early}};
  return document;
}

std::string calibrate_text(const CalibrateOutcome& outcome) {
  const CalibrateVerbOptions& options = outcome.options;
  std::string text = fmt::format(
      "{}: {} token{} of {}{}, {}\n", options.out, outcome.tokens, outcome.tokens == 1 ? "" : "s",
      outcome.model, options.bits < 16 ? fmt::format(", rounded to {} bits", options.bits) : "",
      human_bytes(outcome.file_bytes));
  text += one_line(fmt::format("  \"{}\"", outcome.prefix_text), kWidth) + "\n";
  if (!outcome.student.empty()) {
    const calibrate::CalibratedPrefix& trained = outcome.trained;
    text += fmt::format("trained for {} on {} samples of {}, {} held out, in {}\n", outcome.student,
                        outcome.samples.train.size(), outcome.source,
                        outcome.samples.heldout.size(), outcome.products);
    text += fmt::format("held-out loss {:.6g} -> {:.6g}{}, {}\n", trained.first_heldout,
                        trained.best_heldout,
                        change_text(trained.first_heldout, trained.best_heldout), ending(trained));
  }
  text += fmt::format("use it: lowkey run {} --kv 16+i@{}\n",
                      options.student ? *options.student : "QUANTIZED_MODEL", options.out);
  return text;
}

}  // namespace lowkey
