#pragma once
// How each layer's keys and values are stored: the one struct that travels from everything offline
// to everything online (docs/formats/recipe.md). Torch-free; plain values, thread-safe.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lowkey {

enum class QuantAxis : uint8_t { kPerToken, kPerChannel };
enum class Quantizer : uint8_t { kAffine, kLog, kPower, kCodebook };
enum class ScaleChoice : uint8_t { kMinMax, kMse, kQuantile, kStatic, kLearned };
enum class Transform : uint8_t { kNone, kHadamard, kChannelScale };
enum class WindowRule : uint8_t { kKivi, kBlock };
enum class KeyRope : uint8_t { kAfter, kBefore };
enum class PrefillMode : uint8_t { kCached, kExact };

// Bounds that keep every byte count inside 63 bits; far above any model. Checked when a recipe is
// parsed and when it is resolved.
inline constexpr int32_t kMaxLayers = 1024;
inline constexpr int32_t kMaxKvHeads = 1024;
inline constexpr int32_t kMaxHeadDim = 1024;
inline constexpr int32_t kMaxResidualLength = 65536;
inline constexpr int32_t kMaxIntactPrefix = 65536;
inline constexpr int64_t kMaxTokens = int64_t{1} << 28;

// A per-token group that spans the whole head, whatever head_dim is.
inline constexpr int32_t kGroupIsHeadDim = 0;

// One side (keys or values) of one layer or one KV head.
struct SideRecipe {
  int32_t bits = 16;  // 32 and 16: IEEE floats, unquantized; 8, 4, 3, 2: packed codes
  QuantAxis axis = QuantAxis::kPerToken;
  int32_t group_size =
      kGroupIsHeadDim;  // tokens (per channel: 32, 64, 128) or channels (per token)
  Quantizer quantizer = Quantizer::kAffine;
  ScaleChoice scales = ScaleChoice::kMinMax;
  Transform transform = Transform::kNone;

  bool packed() const { return bits < 16; }
  friend bool operator==(const SideRecipe&, const SideRecipe&) = default;
};

// 32, 16, 8, 4, 3 or 2.
bool is_recipe_bits(int32_t bits);

struct HeadRecipe {
  SideRecipe k, v;
  friend bool operator==(const HeadRecipe&, const HeadRecipe&) = default;
};

struct LayerRecipe {
  SideRecipe k, v;
  std::map<int32_t, HeadRecipe> heads;  // KV heads that differ from k and v
  int32_t residual_length = 0;          // R: newest tokens kept exact
  WindowRule window = WindowRule::kKivi;
  KeyRope key_rope = KeyRope::kAfter;
  friend bool operator==(const LayerRecipe&, const LayerRecipe&) = default;
};

// Layers first..last (inclusive) are stored like `layer`; the rest rule ("*") takes what no other
// rule names.
struct LayerRule {
  int32_t first = 0;
  int32_t last = 0;
  bool rest = false;
  LayerRecipe layer;
  friend bool operator==(const LayerRule&, const LayerRule&) = default;
};

// The file with the keys and values of the intact prefix (docs/formats/prefix.md).
struct CalibrationRef {
  // As written: relative to the working directory in the short form, to its folder in a recipe's
  // file; parse_recipe() makes the second the first.
  std::string file;
  std::string sha256;  // of its bytes, 64 hex digits; empty: unchecked
  friend bool operator==(const CalibrationRef&, const CalibrationRef&) = default;
};

// Where a recipe comes from; carried along, never interpreted.
struct Provenance {
  std::string model_sha256, data_sha256, command;
  std::map<std::string, double> metrics;
  friend bool operator==(const Provenance&, const Provenance&) = default;
};

struct KvRecipe {
  std::string name;              // for people, in tables; a file's name unless it says another
  std::vector<LayerRule> rules;  // at least one
  int32_t intact_prefix = 0;     // tokens kept exact at the start; at least those of `calibration`
  int32_t protect =
      0;  // heavy-hitter tokens kept exact (not supported yet: anything but 0 is refused)
  bool score_correction = false;  // not supported yet: true is refused
  PrefillMode prefill = PrefillMode::kCached;
  std::optional<CalibrationRef> calibration;
  Provenance provenance;
  friend bool operator==(const KvRecipe&, const KvRecipe&) = default;
};

// The shape of the cache a recipe is applied to.
struct KvShape {
  int32_t num_layers = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  // [num_layers] or empty: how many tokens a layer's queries see, their own included; 0: all.
  std::vector<int32_t> windows = {};

  int32_t window(int32_t layer) const {
    return windows.empty() ? 0 : windows[static_cast<size_t>(layer)];
  }
};

// A recipe bound to a shape: every layer present, every group size a number, everything validated.
struct ResolvedLayer {
  std::vector<HeadRecipe> heads;  // [num_kv_heads]
  int32_t residual_length = 0;
  WindowRule window = WindowRule::kKivi;
};

struct ResolvedRecipe {
  KvShape shape;
  std::vector<ResolvedLayer> layers;  // [num_layers]
  int32_t intact_prefix = 0;          // those of a prefix's file among them
  PrefillMode prefill = PrefillMode::kCached;
  std::string label;  // the recipe's name, else its short form
};

// Short grammar, the path of a JSON file ("*.json"), a point of a front ("*.json@3.25",
// recipe/front.h), or JSON itself ("{..."); docs/formats/recipe.md. Throws Error kInvalidArgument
// naming the part of the text that is wrong and what would be right; file errors as read_file.
KvRecipe parse_recipe(std::string_view text);

// The shortest text that parses to the same storage of tokens: the short form, which leaves name
// and provenance out; JSON for recipes that the grammar cannot express.
std::string recipe_to_string(const KvRecipe& recipe);

// Versioned JSON (docs/formats/recipe.schema.json). Unknown fields, wrong types and missing fields
// are refused: Error kInvalidArgument with source_name and the field's path, kUnsupported for
// another version.
KvRecipe recipe_from_json(std::string_view json, std::string_view source_name);
// Throws Error kInvalidArgument where JSON has no words: a metric that is not finite, text that is
// not UTF-8.
std::string recipe_to_json(const KvRecipe& recipe);

// Applies a recipe to a model's shape. Throws Error kInvalidArgument: a shape that cannot be (a
// count out of bounds, windows not given per layer or negative), layers left uncovered or
// covered twice, a per-channel R that is no multiple of the group, a per-token group that does not
// divide head_dim, a head that does not exist; kUnsupported for fields that nothing implements yet,
// by name. A layer without packed sides has residual_length 0 afterwards, whatever it said.
//
// prefix_tokens: how many tokens the prefix holds that sequences will begin with, which are exact;
// 0: none. A recipe that names a prefix's file is refused without (kInvalidArgument): who resolves
// it must read the file first (engine/prefix_file.h).
ResolvedRecipe resolve_recipe(const KvRecipe& recipe, const KvShape& shape,
                              int64_t prefix_tokens = 0);

}  // namespace lowkey
