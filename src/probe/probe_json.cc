#include "probe/probe_json.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "load/utf8.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;

// Six digits: what was measured has no more, and readers load quicker. JSON has no words for what
// is not finite; an exact pass that overflowed was refused before.
double finite(double x) {
  LOWKEY_CHECK(std::isfinite(x), "{}", x);
  return std::strtod(fmt::format("{:.6g}", x).c_str(), nullptr);
}

Json numbers(const std::vector<double>& values) {
  Json array = Json::array();
  for (double x : values) array.push_back(finite(x));
  return array;
}

std::string token_text(const Tokenizer& tokenizer, int32_t token) {
  return utf8_replace_invalid(tokenizer.decode({&token, 1}, true));
}

Json candidate_json(const CandidateErrors& errors) {
  Json heads = Json::array();
  for (const HeadErrors& head : errors.heads) {
    heads.push_back(
        {{"e_k", finite(head.e_k)}, {"e_a", finite(head.e_a)}, {"e_o", finite(head.e_o)}});
  }
  return {{"label", errors.label},
          {"e_k", finite(errors.e_k)},
          {"e_v", finite(errors.e_v)},
          {"e_a", finite(errors.e_a)},
          {"e_o", finite(errors.e_o)},
          {"bias_k", finite(errors.bias_k)},
          {"bias_score", finite(errors.bias_score)},
          {"bias_o", finite(errors.bias_o)},
          {"heads", std::move(heads)}};
}

Json axis_json(const AxisErrors& axis, const char* name, double value) {
  return {{"side", axis.side == Side::kKey ? "k" : "v"},
          {"axis", axis.axis == QuantAxis::kPerToken ? "per_token" : "per_channel"},
          {"bits", axis.bits},
          {name, finite(value)}};
}

Json layer_json(const LayerProbe& layer, size_t index) {
  Json candidates = Json::array(), axes = Json::array(), axes_output = Json::array(),
       noise = Json::array(), heads = Json::array();
  for (const CandidateErrors& errors : layer.candidates) {
    candidates.push_back(candidate_json(errors));
  }
  for (const AxisErrors& axis : layer.axes) {
    axes.push_back(axis_json(axis, "error", axis.error));
    axes_output.push_back(axis_json(axis, "e_o", axis.e_o));
  }
  for (const ScoreNoise& one : layer.score_noise) {
    noise.push_back({{"bits", one.bits},
                     {"predicted", finite(one.predicted)},
                     {"measured", finite(one.measured)}});
  }
  for (const AttentionShape& head : layer.heads) {
    heads.push_back({{"entropy", finite(head.entropy)},
                     {"top_share", finite(head.top_share)},
                     {"sink_share", finite(head.sink_share)}});
  }
  return {{"layer", index},
          {"candidates", std::move(candidates)},
          {"axes", std::move(axes)},
          {"axes_output", std::move(axes_output)},
          {"score_noise", std::move(noise)},
          {"entropy", finite(layer.mean.entropy)},
          {"top_share", finite(layer.mean.top_share)},
          {"sink_share", finite(layer.mean.sink_share)},
          {"heads", std::move(heads)}};
}

Json pivot_json(const Pivot& pivot, const Tokenizer& tokenizer) {
  return {{"document", utf8_replace_invalid(pivot.document)},
          {"position", pivot.position},
          {"token", token_text(tokenizer, pivot.token)},
          {"layer", pivot.layer},
          {"channels", pivot.channels},
          {"magnitude", finite(pivot.magnitude)},
          {"ratio", finite(pivot.ratio)}};
}

Json shift_json(const AttentionShift& shift, const Tokenizer& tokenizer) {
  Json tokens = Json::array(), scores = Json::object();
  for (int32_t token : shift.tokens) tokens.push_back(token_text(tokenizer, token));
  for (auto entry = shift.scores.rbegin(); entry != shift.scores.rend(); ++entry) {
    scores[std::to_string(entry->first)] = numbers(entry->second);
  }
  return {{"layer", shift.layer},         {"head", shift.head},
          {"query", shift.query},         {"tokens", std::move(tokens)},
          {"positions", shift.positions}, {"scores", std::move(scores)}};
}

}  // namespace

Json probe_json(const ProbeResult& result, std::string_view model_name, const Tokenizer& tokenizer,
                std::span<const LayerSensitivity> sensitivity) {
  Json layers = Json::array(), depth = Json::array(), pivots = Json::array(),
       shifts = Json::array(), ablation = Json::array();
  for (size_t i = 0; i < result.layers.size(); ++i) {
    layers.push_back(layer_json(result.layers[i], i));
  }
  for (const DepthGrowth& growth : result.depth) {
    depth.push_back({{"recipe", growth.recipe},
                     {"relative_error", numbers(growth.relative_error)},
                     {"independent", numbers(growth.independent)}});
  }
  for (const Pivot& pivot : result.pivots) pivots.push_back(pivot_json(pivot, tokenizer));
  for (const AttentionShift& shift : result.shifts) shifts.push_back(shift_json(shift, tokenizer));
  for (const AblationPoint& point : result.ablation) {
    ablation.push_back({{"bits", point.bits},
                        {"group_size", point.group_size},
                        {"residual_length", point.residual_length},
                        {"e_o", finite(point.e_o)},
                        {"stored_bits", finite(point.stored_bits)}});
  }
  Json perturbed = Json::array();
  for (const LayerSensitivity& entry : sensitivity) {
    perturbed.push_back({{"layer", entry.layer},
                         {"candidate", entry.candidate},
                         {"from", entry.direction == Perturbation::kLowered ? "16-bit" : "low"},
                         {"kl", finite(entry.kl)},
                         {"ppl_delta_percent", finite(entry.ppl_delta_percent)}});
  }
  return {{"lowkey_probe", 1},
          {"model", utf8_replace_invalid(model_name)},
          {"tokens", result.tokens},
          {"queries", result.queries},
          {"candidates", result.candidates},
          {"layers", std::move(layers)},
          {"depth", std::move(depth)},
          {"pivots", std::move(pivots)},
          {"attention_shift", std::move(shifts)},
          {"ablation", std::move(ablation)},
          {"sensitivity", std::move(perturbed)}};
}

}  // namespace lowkey
