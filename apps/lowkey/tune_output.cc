#include "tune_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "recipe/bytes.h"
#include "recipe/export.h"
#include "recipe/front.h"
#include "report/report.h"
#include "table.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;
using tune::MeasuredPoint;

const std::string& label_of(const TuneOutcome& outcome, int32_t candidate) {
  return outcome.options.candidates[static_cast<size_t>(candidate)].label;
}

Json labels_of(const TuneOutcome& outcome, const std::vector<int32_t>& kept) {
  Json labels = Json::array();
  for (int32_t candidate : kept) labels.push_back(label_of(outcome, candidate));
  return labels;
}

// Bits of keys and values of every layer of a point.
Json layers_of(const TuneOutcome& outcome, const FrontPoint& point) {
  Json layers = Json::array();
  const ResolvedRecipe recipe = resolve_recipe(parse_recipe(point.recipe), outcome.shape);
  for (const ResolvedLayer& layer : recipe.layers) {
    layers.push_back({layer.heads[0].k.bits, layer.heads[0].v.bits});
  }
  return layers;
}

std::string bits_text(double bits) {
  return fmt::format("{:.2f}", bits);
}

// Points of a front may share their bits when those are printed: the second gets a letter.
std::vector<std::string> file_names(const Front& front) {
  std::vector<std::string> names;
  std::set<std::string> taken;
  for (const FrontPoint& point : front.points) {
    std::string name = bits_text(point.code_bits);
    for (char letter = 'b'; !taken.insert(name).second; ++letter) {
      name = bits_text(point.code_bits) + letter;
    }
    names.push_back(name);
  }
  return names;
}

// The point of each need, and how to run it.
struct Use {
  std::string need, what;
  const FrontPoint* point = nullptr;
  std::string command;
};

std::string run_command(const TuneOutcome& outcome, const std::string& folder,
                        const FrontPoint& point) {
  return fmt::format("lowkey run {} --kv {}", outcome.model_argument,
                     reference_to(folder + "/front.json", outcome.result.front, point));
}

std::vector<Use> uses_of(const TuneOutcome& outcome, const std::string& folder) {
  std::vector<Use> uses;
  const Front& front = outcome.result.front;
  const auto add = [&](std::string need, std::string what, const FrontPoint* point) {
    uses.push_back({std::move(need), std::move(what), point,
                    point ? run_command(outcome, folder, *point) : ""});
  };
  for (Quality quality : {Quality::kLossless, Quality::kBalanced, Quality::kCompact}) {
    add(std::string(quality_name(quality)), std::string(quality_promise(quality)),
        point_for(front, quality));
  }
  if (outcome.budget) {
    add(fmt::format("{:g} bits", *outcome.budget), "the budget asked for",
        point_within(front, *outcome.budget));
  }
  return uses;
}

const char* kind_name(MeasuredPoint::Kind kind) {
  switch (kind) {
    case MeasuredPoint::Kind::kSensitivity: return "sensitivity";
    case MeasuredPoint::Kind::kSearch: return "search";
    case MeasuredPoint::Kind::kReference: return "reference";
  }
  return "search";
}

KvRecipe with_provenance(const TuneOutcome& outcome, const FrontPoint& point,
                         const std::string& name) {
  KvRecipe recipe = recipe_of(point, outcome.result.front);
  recipe.name = fmt::format("{} at {} bits", outcome.result.front.model, name);
  return recipe;
}

// Files of an earlier run that this one does not write again.
void remove_others(const std::filesystem::path& folder, const std::set<std::string>& written) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool ours = (name.starts_with("recipe-") && name.ends_with(".json")) ||
                      (name.starts_with("kvtuner-") && name.ends_with(".yaml"));
    if (ours && !written.contains(name)) std::filesystem::remove(entry.path());
  }
}

// "kivi-4/2" of "kivi-4/2:r32+i1".
std::string short_name(const std::string& recipe) {
  return recipe.substr(0, recipe.find_first_of(":+"));
}

std::string percent(double value) {
  return fmt::format("{:+.2f}%", value);
}

}  // namespace

Json tune_report_json(const TuneOutcome& outcome, const std::string& folder) {
  const tune::TuneResult& result = outcome.result;
  Json json;
  json["lowkey_report"] = 1;
  json["title"] = result.front.model;
  json["command"] = result.front.command;
  json["engine"] = outcome.engine;
  json["shape"] = {{"num_layers", outcome.shape.num_layers},
                   {"num_kv_heads", outcome.shape.num_kv_heads},
                   {"head_dim", outcome.shape.head_dim}};
  json["ctx"] = outcome.options.ctx;
  json["calibration"] = {{"documents", outcome.calibration.documents},
                         {"scored_tokens", outcome.calibration.scored_tokens}};
  json["heldout"] = {{"documents", outcome.heldout.documents},
                     {"scored_tokens", outcome.heldout.scored_tokens}};
  json["reference"] = {{"ppl", result.reference.ppl},
                       {"ppl_heldout", result.reference_heldout.ppl}};
  json["front"] = Json::parse(front_to_json(result.front));
  json["point_layers"] = Json::array();
  for (const FrontPoint& point : result.front.points) {
    json["point_layers"].push_back(layers_of(outcome, point));
  }
  json["use"] = Json::array();
  for (const Use& use : uses_of(outcome, folder)) {
    json["use"].push_back(
        {{"need", use.need},
         {"what", use.what},
         {"point", use.point ? Json(use.point - result.front.points.data()) : Json()},
         {"command", use.command}});
  }
  json["trials"] = Json::array();
  for (const MeasuredPoint& trial : result.trials) {
    json["trials"].push_back({{"kind", kind_name(trial.kind)},
                              {"code_bits", trial.code_bits},
                              {"stored_bits", trial.stored_bits},
                              {"kl", trial.kl}});
  }
  json["sensitivity"] = Json::array();
  for (const tune::Sensitivity& entry : result.sensitivity) {
    for (int32_t layer : entry.layers) {
      json["sensitivity"].push_back({{"layer", layer},
                                     {"candidate", label_of(outcome, entry.candidate)},
                                     {"kl", entry.kl},
                                     {"from", entry.from_low ? "low" : "16-bit"}});
    }
  }
  json["pruned"] = Json::array();
  for (size_t layer = 0; layer < result.kept.size(); ++layer) {
    Json dropped = Json::array();
    for (int32_t c = 0; c < static_cast<int32_t>(outcome.options.candidates.size()); ++c) {
      const auto& kept = result.kept[layer];
      if (std::find(kept.begin(), kept.end(), c) == kept.end()) {
        dropped.push_back(label_of(outcome, c));
      }
    }
    json["pruned"].push_back(
        {{"layer", layer}, {"kept", labels_of(outcome, result.kept[layer])}, {"dropped", dropped}});
  }
  json["groups"] = Json::array();
  for (const tune::LayerGroup& group : result.groups) {
    json["groups"].push_back({{"layers", group.layers}, {"kept", labels_of(outcome, group.kept)}});
  }
  json["surrogate"] = {{"rank_correlation", result.rank_correlation},
                       {"trials", result.search_trials}};
  json["probe"] = outcome.probe_json.empty() ? Json() : Json::parse(outcome.probe_json);
  return json;
}

std::string write_tune_files(const TuneOutcome& outcome, const std::filesystem::path& folder) {
  const Front& front = outcome.result.front;
  const std::vector<std::string> names = file_names(front);
  std::set<std::string> written;
  for (size_t i = 0; i < names.size(); ++i) {
    const KvRecipe recipe = with_provenance(outcome, front.points[i], names[i]);
    const std::string file = "recipe-" + names[i] + ".json";
    write_file_atomically(folder / file, recipe_to_json(recipe));
    written.insert(file);
    try {
      const std::string yaml = recipe_to_kvtuner_yaml(resolve_recipe(recipe, outcome.shape));
      write_file_atomically(folder / ("kvtuner-" + names[i] + ".yaml"), yaml);
      written.insert("kvtuner-" + names[i] + ".yaml");
    } catch (const Error& error) {
      // Bits or windows that KVTuner has no words for: the recipe is there all the same.
      if (error.code() != ErrorCode::kUnsupported && error.code() != ErrorCode::kInvalidArgument) {
        throw;
      }
    }
  }
  const std::string report = tune_report_json(outcome, folder.string()).dump() + "\n";
  write_file_atomically(folder / "front.json", front_to_json(front));
  write_file_atomically(folder / "report.json", report);
  remove_others(folder, written);
  try {
    write_file_atomically(folder / "report.html", tune_report_html(report));
  } catch (const Error& error) {
    // A build without plotly.js: no reason to lose the search.
    if (error.code() != ErrorCode::kUnsupported) throw;
    return error.what();
  }
  return "";
}

std::string tune_text(const TuneOutcome& outcome, const std::string& folder,
                      const Terminal& terminal) {
  const tune::TuneResult& result = outcome.result;
  std::vector<std::string> labels;
  for (const LayerCandidate& candidate : outcome.options.candidates) {
    labels.push_back(candidate.label);
  }
  std::string out = fmt::format(
      "{}: calibrated on {} tokens of {} documents, held out {} of {}\n{}\n\n", result.front.model,
      with_separators(outcome.calibration.scored_tokens), outcome.calibration.documents,
      with_separators(outcome.heldout.scored_tokens), outcome.heldout.documents, outcome.engine);
  out += fmt::format("{} groups of layers that kept the same candidates and suffer alike:\n{}\n",
                     result.groups.size(), tune::groups_table(result.groups, labels));
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"code", kRight},
               {"stored", kRight},
               {"B/token", kRight},
               {"smaller", kRight},
               {"KL", kRight},
               {"+-", kRight},
               {"ppl", kRight},
               {"| held out: KL", kRight},
               {"ppl", kRight},
               {"top-1", kRight},
               {""}});
  const double plain =
      static_cast<double>(
          bytes_at(resolve_recipe(parse_recipe("16"), outcome.shape), outcome.options.ctx)
              .total()) /
      static_cast<double>(outcome.options.ctx);
  const auto add = [&](const FrontPoint& point, std::string name) {
    table.add_row({bits_text(point.code_bits), bits_text(point.stored_bits),
                   with_separators(std::llround(point.bytes_per_token)),
                   fmt::format("{:.2f}x", plain / point.bytes_per_token),
                   fmt::format("{:.4f}", point.kl), fmt::format("{:.4f}", point.kl_ci),
                   percent(point.ppl_delta_percent), fmt::format("{:.4f}", point.kl_heldout),
                   percent(point.ppl_delta_percent_heldout),
                   fmt::format("{:.1f}%", point.top1_agreement_heldout * 100), std::move(name)});
  };
  for (const FrontPoint& point : result.front.points) add(point, "");
  for (const FrontPoint& point : result.front.references) add(point, short_name(point.recipe));
  out += table.text(terminal);
  out += fmt::format(
      "\n{} real evaluations by the search; the surrogate's ranks before each: Spearman {:.3f}\n",
      result.search_trials, result.rank_correlation);
  out += "\nWhat to use:\n";
  for (const Use& use : uses_of(outcome, folder)) {
    if (use.point) {
      out += fmt::format("  {:<10} {} code bits, perplexity {} ({})\n             {}\n", use.need,
                         bits_text(use.point->code_bits),
                         percent(use.point->ppl_delta_percent_heldout), use.what, use.command);
    } else {
      out += fmt::format("  {:<10} no point of this front ({})\n", use.need, use.what);
    }
  }
  out += fmt::format("\n{0}/report.html is the picture; {0}/front.json goes to plan and run\n",
                     folder);
  return out;
}

}  // namespace lowkey
