#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/prefix_file.h"
#include "inspect.h"
#include "load/tokenizer.h"
#include "table.h"
#include "tensor_summary.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;

// The number of the largest magnitude in one layer's keys or values, and where it is.
struct Largest {
  float value = 0;
  int64_t token = 0, head = 0, channel = 0;
};

Largest largest_of(const IntactPrefix& prefix, const std::vector<Half>& rows, int32_t layer) {
  Largest largest;
  for (int32_t head = 0; head < prefix.num_kv_heads; ++head) {
    const Half* at = rows.data() + prefix.offset(layer, head);
    for (int64_t token = 0; token < prefix.length(); ++token) {
      for (int32_t channel = 0; channel < prefix.head_dim; ++channel, ++at) {
        const float value = half_to_float(*at);
        if (std::abs(value) > std::abs(largest.value)) largest = {value, token, head, channel};
      }
    }
  }
  return largest;
}

// How far a row's largest magnitude stands above its root mean square, in the mean of all rows that
// are not zero: a few bits suit flat rows. 1 would be all alike.
double largest_over_rms(const IntactPrefix& prefix, const std::vector<Half>& rows) {
  const auto width = static_cast<size_t>(prefix.head_dim);
  double sum = 0;
  int64_t count = 0;
  for (size_t row = 0; row < rows.size(); row += width) {
    double largest = 0, squares = 0;
    for (size_t c = row; c < row + width; ++c) {
      const auto value = static_cast<double>(half_to_float(rows[c]));
      largest = std::max(largest, std::abs(value));
      squares += value * value;
    }
    if (squares == 0) continue;
    sum += largest / std::sqrt(squares / static_cast<double>(width));
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

struct Flatness {
  double k = 0, v = 0;
};

Flatness flatness_of(const IntactPrefix& prefix) {
  return {largest_over_rms(prefix, prefix.k), largest_over_rms(prefix, prefix.v)};
}

// After QuaRot's rotation of each head, where there is one for such heads.
std::optional<Flatness> turned_flatness_of(const PrefixFile& file) {
  const IntactPrefix& prefix = *file.prefix;
  if (!std::has_single_bit(static_cast<uint32_t>(prefix.head_dim))) return std::nullopt;
  ModelConfig turned;
  turned.hadamard_qk = turned.hadamard_v = true;
  turned.head_dim = prefix.head_dim;
  return flatness_of(*prefix_for(file.prefix, turned));
}

Json flatness_json(const Flatness& flatness) {
  return {{"k", flatness.k}, {"v", flatness.v}};
}

Json largest_json(const Largest& largest) {
  return {{"value", largest.value},
          {"token", largest.token},
          {"head", largest.head},
          {"channel", largest.channel}};
}

// A file's text on one line.
std::string one_line(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      out += (c >= 0 && c < 0x20) || c == 0x7f ? '?' : c;
    }
  }
  return out;
}

std::string ids_text(const std::vector<int32_t>& ids) {
  constexpr size_t kShown = 32;
  const auto shown = std::span(ids).first(std::min(ids.size(), kShown));
  return fmt::format("{}{}", fmt::join(shown, " "), ids.size() > kShown ? " ..." : "");
}

}  // namespace

std::string inspect_prefix(const InspectOptions& options, const Terminal& terminal) {
  const PrefixFile file = read_prefix(options.path);
  const IntactPrefix& prefix = *file.prefix;
  std::optional<std::string> text;
  if (options.model) {
    const ModelFile model = ModelFile::open(*options.model);
    check_prefix(file, options.path, model);
    text = Tokenizer(model.tokenizer()).decode(prefix.tokens, true);
  }
  const Flatness flatness = flatness_of(prefix);
  const std::optional<Flatness> turned = turned_flatness_of(file);
  if (options.json) {
    Json json;
    json["kind"] = "prefix";
    json["path"] = options.path;
    json["name"] = file.name;
    json["tokens"] = prefix.tokens;
    if (text) json["text"] = *text;
    json["num_layers"] = prefix.num_layers;
    json["num_kv_heads"] = prefix.num_kv_heads;
    json["head_dim"] = prefix.head_dim;
    json["model_sha256"] = file.model_sha256;
    json["tokenizer_sha256"] = file.tokenizer_sha256;
    json["command"] = file.command;
    json["notes"] = file.notes;
    json["largest_over_rms"] = flatness_json(flatness);
    if (turned) json["largest_over_rms_turned"] = flatness_json(*turned);
    for (int32_t layer = 0; layer < prefix.num_layers; ++layer) {
      json["layers"].push_back({{"largest_k", largest_json(largest_of(prefix, prefix.k, layer))},
                                {"largest_v", largest_json(largest_of(prefix, prefix.v, layer))}});
    }
    return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  }
  Facts facts;
  if (!file.name.empty()) facts.emplace_back("name", one_line(file.name));
  facts.emplace_back("tokens", fmt::format("{}: {}", prefix.length(), ids_text(prefix.tokens)));
  if (text) facts.emplace_back("text", one_line(*text));
  facts.emplace_back("shape", fmt::format("{} layers of {} KV heads x {}", prefix.num_layers,
                                          prefix.num_kv_heads, prefix.head_dim));
  facts.emplace_back("for model", file.model_sha256);
  facts.emplace_back("tokenizer", file.tokenizer_sha256);
  if (!file.command.empty()) facts.emplace_back("made by", one_line(file.command));
  std::string flat = fmt::format("K {:.2f}, V {:.2f}", flatness.k, flatness.v);
  if (turned)
    flat += fmt::format("; turned as QuaRot does: K {:.2f}, V {:.2f}", turned->k, turned->v);
  facts.emplace_back("largest/rms", flat + " (mean of rows)");
  for (const auto& [key, value] : file.notes) facts.emplace_back(one_line(key), one_line(value));
  std::string out = facts_text(options.path + " (an intact prefix)", facts, terminal);
  if (!options.model) out += "Its tokens as text: --model MODEL\n";

  constexpr auto kRight = Table::Align::kRight;
  Table table({{"layer", kRight},
               {"largest |K|", kRight},
               {"token", kRight},
               {"head", kRight},
               {"channel", kRight},
               {"largest |V|", kRight},
               {"token", kRight},
               {"head", kRight},
               {"channel", kRight}});
  for (int32_t layer = 0; layer < prefix.num_layers; ++layer) {
    std::vector<std::string> cells = {fmt::format("{}", layer)};
    for (const std::vector<Half>* rows : {&prefix.k, &prefix.v}) {
      const Largest largest = largest_of(prefix, *rows, layer);
      cells.push_back(fmt::format("{:.3g}", std::abs(largest.value)));
      cells.push_back(fmt::format("{}", largest.token));
      cells.push_back(fmt::format("{}", largest.head));
      cells.push_back(fmt::format("{}", largest.channel));
    }
    table.add_row(std::move(cells));
  }
  return fmt::format("{}\n{}", out, table.text(terminal));
}

}  // namespace lowkey
