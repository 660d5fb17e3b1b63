#pragma once
// A Pareto front of recipes, as `lowkey tune` writes it (docs/formats/front.md) and `plan` and `run
// --quality` read it. Torch-free.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "recipe/recipe.h"

namespace lowkey {

// Every number was measured on the model; nothing is predicted. KL is against the 16-bit cache.
struct FrontPoint {
  std::string recipe;  // short form, or JSON text where the short form has no words
  double code_bits = 0;
  double stored_bits = 0;      // at Front::ctx tokens
  double bytes_per_token = 0;  // at Front::ctx tokens
  double kl = 0;               // mean over the calibration text's scored tokens, nats
  double kl_ci = 0;            // half the width of its 95% interval
  double top1_agreement = 0;   // 0..1
  double ppl = 0;
  double ppl_delta_percent = 0;
  // On text that took no part in the search.
  double kl_heldout = 0;
  double kl_heldout_ci = 0;
  double ppl_heldout = 0;
  double ppl_delta_percent_heldout = 0;
  double top1_agreement_heldout = 0;
  std::optional<double> task_accuracy;  // exact match, where the loss was a task
  friend bool operator==(const FrontPoint&, const FrontPoint&) = default;
};

struct Front {
  std::string model;         // its file's or folder's name
  std::string model_sha256;  // of its weights and config
  std::string command;
  int64_t ctx = 0;                     // at which stored_bits and bytes_per_token are
  std::vector<FrontPoint> points;      // ascending code bits
  std::vector<FrontPoint> references;  // uniform recipes, measured the same way
  friend bool operator==(const Front&, const Front&) = default;
};

// Throws Error kInvalidArgument with source_name and the field's path: unknown fields, wrong types,
// recipes that do not parse, another version.
Front front_from_json(std::string_view json, std::string_view source_name);
std::string front_to_json(const Front& front);

// `run --quality`: what people ask for, as the largest loss they accept on held-out text.
enum class Quality : uint8_t {
  kLossless,  // perplexity within 0.5% and KL <= 0.01
  kBalanced,  // within 2%
  kCompact,   // within 5%
};
std::optional<Quality> parse_quality(std::string_view name);  // "lossless", "balanced", "compact"
// The point with the fewest stored bits that keeps the promise; nullptr if none does.
const FrontPoint* point_for(const Front& front, Quality quality);

}  // namespace lowkey
