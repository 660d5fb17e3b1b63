#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "inspect.h"
#include "load/gguf.h"
#include "load/safetensors.h"
#include "table.h"
#include "tensor_summary.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxValueWidth = 70;

void refuse_kv(const InspectOptions& options) {
  if (!options.kv.empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: --kv needs a model, this file holds tensors only",
         options.path);
  }
}

std::vector<const TensorView*> pointers(const std::vector<TensorView>& tensors) {
  std::vector<const TensorView*> views;
  for (const TensorView& tensor : tensors) views.push_back(&tensor);
  return views;
}

// A file's text on one line: control characters would move the cursor or worse.
std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7f ? ' ' : c;
  }
  return fit(out, kMaxValueWidth);
}

template <typename T>
std::string value_text(const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    return printable(value);
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_arithmetic_v<T>) {
    return fmt::format("{}", value);
  } else {
    return fmt::format("[{} values]", with_separators(static_cast<int64_t>(value.size())));
  }
}

std::string tensors_text(const std::vector<TensorView>& tensors, const Terminal& terminal) {
  std::string out = paint(terminal, Ink::kBold, "Types") + "\n";
  out += tensor_types_text(pointers(tensors), terminal);
  Table table({{"tensor"}, {"type"}, {"shape"}, {"bytes", Table::Align::kRight}});
  for (const TensorView& tensor : tensors) {
    table.add_row({printable(tensor.name), std::string(dtype_name(tensor.dtype)),
                   shape_text(tensor), human_bytes(tensor.data.size())});
  }
  return fmt::format("{}\n{}", out, table.text(terminal));
}

Json tensors_json(const std::vector<TensorView>& tensors) {
  Json json = Json::array();
  for (const TensorView& tensor : tensors) {
    json.push_back({{"name", tensor.name},
                    {"type", dtype_name(tensor.dtype)},
                    {"shape", tensor.shape},
                    {"bytes", tensor.data.size()}});
  }
  return json;
}

std::string dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string inspect_gguf(const InspectOptions& options, const std::string& why_not,
                         const Terminal& terminal) {
  const GgufFile file = GgufFile::open(options.path);
  if (options.json) {
    Json json;
    json["kind"] = "gguf";
    json["path"] = options.path;
    json["cannot_run"] = why_not;
    json["version"] = file.version();
    for (const auto& [key, value] : file.metadata()) {
      json["metadata"][key] = std::visit([](const auto& v) { return value_text(v); }, value);
    }
    json["tensors"] = tensors_json(file.tensors());
    return dump(json);
  }
  Facts facts;
  for (const auto& [key, value] : file.metadata()) {
    facts.emplace_back(printable(key),
                       std::visit([](const auto& v) { return value_text(v); }, value));
  }
  std::string out =
      facts_text(fmt::format("{} (GGUF v{})", options.path, file.version()), facts, terminal);
  out += paint(terminal, Ink::kYellow, "Not a model lowkey runs: ") + why_not + "\n";
  if (!file.tensors().empty()) out += fmt::format("\n{}", tensors_text(file.tensors(), terminal));
  return out;
}

std::string inspect_safetensors(const InspectOptions& options, const Terminal& terminal) {
  refuse_kv(options);
  const SafetensorsFile file = SafetensorsFile::open(options.path);
  if (file.metadata().contains("lowkey_prefix")) return inspect_prefix(options, terminal);
  if (options.json) {
    Json json;
    json["kind"] = "safetensors";
    json["path"] = options.path;
    json["metadata"] = file.metadata();
    json["tensor_types"] = tensor_types_json(pointers(file.tensors()));
    json["tensors"] = tensors_json(file.tensors());
    return dump(json);
  }
  Facts facts;
  for (const auto& [key, value] : file.metadata())
    facts.emplace_back(printable(key), printable(value));
  return fmt::format("{}\n{}", facts_text(options.path + " (safetensors)", facts, terminal),
                     tensors_text(file.tensors(), terminal));
}

}  // namespace lowkey
