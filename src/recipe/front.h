#pragma once
// A Pareto front of recipes, as `lowkey tune` writes it (docs/formats/front.md) and `plan` and `run
// --quality` read it. Torch-free.
#include <cstdint>
#include <filesystem>
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
  std::string data_sha256;   // of the texts it was measured on
  std::string command;
  int32_t num_layers = 0;              // the model's; 0: not said
  int64_t ctx = 0;                     // at which stored_bits and bytes_per_token are
  std::vector<FrontPoint> points;      // ascending code bits, at least one
  std::vector<FrontPoint> references;  // uniform recipes, measured the same way
  friend bool operator==(const Front&, const Front&) = default;
};

// Throws Error kInvalidArgument with source_name and the field's path: unknown fields, wrong types,
// numbers out of range, points out of order, recipes that do not parse; kUnsupported for another
// version.
Front front_from_json(std::string_view json, std::string_view source_name);
// Numbers are printed to come back as they are; the same front gives the same bytes. Throws Error
// kInvalidArgument for what front_from_json would refuse: what is written can be read.
std::string front_to_json(const Front& front);

// A .json file, or a folder with a front.json in it, as `lowkey tune` leaves one. Throws Error
// kNotFound saying how fronts are made, kInvalidArgument for another kind of file.
std::filesystem::path front_path(const std::filesystem::path& file_or_folder);
// Throws Error as read_file and front_from_json.
Front read_front(const std::filesystem::path& file);

// `run --quality`: what people ask for, as the largest loss they accept on held-out text.
enum class Quality : uint8_t {
  kLossless,  // perplexity within 0.5% and KL <= 0.01
  kBalanced,  // within 2%
  kCompact,   // within 5%
};
std::optional<Quality> parse_quality(std::string_view name);  // "lossless", "balanced", "compact"
std::string_view quality_name(Quality quality);
std::string_view quality_promise(Quality quality);  // "perplexity within 0.5%, KL at most 0.01"

// The point with the fewest stored bits that keeps the promise; nullptr if none does.
const FrontPoint* point_for(const Front& front, Quality quality);

// The point with the most code bits that are at most `bits` (of several, the one that loses least);
// nullptr if all have more.
const FrontPoint* point_within(const Front& front, double bits);

// By the front's loss: the task's accuracy where every point has one, else KL on held-out text.
const FrontPoint* least_loss(const Front& front, const std::vector<const FrontPoint*>& points);

// The recipe of a point, its measurements in the provenance. Throws Error as parse_short_form and
// recipe_from_json.
KvRecipe recipe_of(const FrontPoint& point, const Front& front);

// Front::model of a model's file or folder: its name without the folders above.
std::string front_model_name(const std::filesystem::path& model);

// Whether the front was made for another model, in words: "made for A, not for B". Compares what is
// known at once, name and number of layers; reading all weights for their hash would take longer
// than a short answer.
std::optional<std::string> other_model(const Front& front, std::string_view model_name,
                                       int32_t num_layers);

// One point of a front as a recipe is written: "front.json@3.25" (point_within, bits compared as
// printed: to two decimals, or to as many as are written) or "front.json@balanced" (point_for),
// with an intact prefix's file behind it or not: "front.json@3.25+i@bos.safetensors".
struct FrontReference {
  std::string file;
  std::string which;
  std::string prefix = {};
};
// Nothing where the text is no such reference: no ".json@" in it.
std::optional<FrontReference> parse_front_reference(std::string_view text);

struct FrontChoice {
  std::string file;
  Front front;
  size_t index = 0;         // into front.points
  std::string prefix = {};  // file of the intact prefix that is used besides; empty: none
  const FrontPoint& point() const { return front.points[index]; }
  KvRecipe recipe() const;  // named after file and bits
};
// Throws Error as read_front, and kInvalidArgument where no point is meant: which there are is
// said.
FrontChoice choose_point(const FrontReference& reference);

// What names this point of this file: "front.json@3.23".
std::string reference_to(const std::string& file, const Front& front, const FrontPoint& point);

}  // namespace lowkey
