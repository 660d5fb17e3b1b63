#include "tensor_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "table.h"
#include "units.h"

namespace lowkey {
namespace {

struct TypeCount {
  DType dtype;
  int64_t tensors = 0;
  int64_t elements = 0;
  uint64_t bytes = 0;
};

std::vector<TypeCount> count_types(std::span<const TensorView* const> tensors) {
  std::map<DType, TypeCount> counts;
  for (const TensorView* tensor : tensors) {
    TypeCount& count =
        counts.try_emplace(tensor->dtype, TypeCount{.dtype = tensor->dtype}).first->second;
    ++count.tensors;
    count.elements += tensor->rows() * tensor->cols();
    count.bytes += static_cast<uint64_t>(tensor->rows() * tensor->row_bytes());
  }
  std::vector<TypeCount> sorted;
  for (const auto& [dtype, count] : counts) sorted.push_back(count);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const TypeCount& a, const TypeCount& b) { return a.bytes > b.bytes; });
  return sorted;
}

}  // namespace

std::string tensor_types_text(std::span<const TensorView* const> tensors,
                              const Terminal& terminal) {
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"type"}, {"tensors", kRight}, {"numbers", kRight}, {"bytes", kRight}});
  for (const TypeCount& count : count_types(tensors)) {
    table.add_row({std::string(dtype_name(count.dtype)), with_separators(count.tensors),
                   with_separators(count.elements), human_bytes(count.bytes)});
  }
  return table.text(terminal);
}

nlohmann::ordered_json tensor_types_json(std::span<const TensorView* const> tensors) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const TypeCount& count : count_types(tensors)) {
    json.push_back({{"type", dtype_name(count.dtype)},
                    {"tensors", count.tensors},
                    {"elements", count.elements},
                    {"bytes", count.bytes}});
  }
  return json;
}

std::string shape_text(const TensorView& tensor) {
  return tensor.shape.empty() ? "scalar" : fmt::format("{}", fmt::join(tensor.shape, " x "));
}

std::string facts_text(const std::string& heading, const Facts& facts, const Terminal& terminal) {
  int widest = 0;
  for (const auto& [key, value] : facts) widest = std::max(widest, text_width(key));
  std::string out = paint(terminal, Ink::kBold, heading) + "\n";
  for (const auto& [key, value] : facts) {
    const std::string blanks(static_cast<size_t>(widest - text_width(key)), ' ');
    out += fmt::format("  {}{}  {}\n", paint(terminal, Ink::kDim, key), blanks, value);
  }
  return out;
}

}  // namespace lowkey
