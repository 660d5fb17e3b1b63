#include "calibrate/checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "core/error.h"
#include "load/safetensors.h"
#include "load/safetensors_writer.h"

namespace lowkey::calibrate {
namespace {

using nlohmann::json;

constexpr const char* kVersion = "1";

struct Group {
  const char* name;
  const std::vector<at::Tensor>* tensors;
};

std::array<Group, 4> groups_of(const TrainState& state) {
  return {{{"value", &state.tensors},
           {"mean", &state.adamw.mean},
           {"square", &state.adamw.square},
           {"best", &state.best}}};
}

json curve_json(const std::vector<CurvePoint>& curve) {
  json list = json::array();
  const auto number = [](const std::optional<double>& x) { return x ? json(*x) : json(); };
  for (const CurvePoint& point : curve) {
    list.push_back({point.step, number(point.train), number(point.heldout)});
  }
  return list;
}

std::vector<CurvePoint> curve_from(const json& list) {
  std::vector<CurvePoint> curve;
  const auto number = [](const json& x) {
    return x.is_null() ? std::nullopt : std::optional(x.get<double>());
  };
  for (const json& point : list) {
    curve.push_back({point.at(0).get<int64_t>(), number(point.at(1)), number(point.at(2))});
  }
  return curve;
}

[[noreturn]] void corrupt(const std::filesystem::path& path, std::string_view what) {
  fail(ErrorCode::kCorruptFile, "{}: no checkpoint to go on from: {}; delete it to begin anew",
       path.string(), what);
}

void check_settings(const std::filesystem::path& path, const json& was, const json& is) {
  for (const auto& [key, value] : is.items()) {
    const json before = was.value(key, json());
    if (before == value) continue;
    fail(ErrorCode::kInvalidArgument,
         "{}: a checkpoint of another run: its {} was {}, now it is {}; repeat that run's command, "
         "or delete the file to begin anew",
         path.string(), key, before.dump(), value.dump());
  }
}

// The tensors of one group, shaped as `like`.
std::vector<at::Tensor> read_group(const std::map<std::string, TensorView>& found,
                                   const char* group, std::span<const at::Tensor> like,
                                   const std::filesystem::path& path) {
  std::vector<at::Tensor> tensors;
  for (size_t i = 0; i < like.size(); ++i) {
    const std::string name = fmt::format("{}.{}", group, i);
    const auto view = found.find(name);
    if (view == found.end()) corrupt(path, fmt::format("it has no tensor '{}'", name));
    const std::vector<int64_t> shape{like[i].numel()};
    if (view->second.dtype != DType::kF32 || view->second.shape != shape) {
      corrupt(path, fmt::format("tensor '{}' is not F32 [{}]", name, like[i].numel()));
    }
    at::Tensor tensor = at::empty(like[i].sizes(), at::kFloat);
    std::memcpy(tensor.mutable_data_ptr<float>(), view->second.data.data(),
                view->second.data.size());
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace

void write_checkpoint(const std::filesystem::path& path, const json& settings,
                      const TrainState& state) {
  std::vector<SafetensorsEntry> entries;
  std::vector<at::Tensor> data;
  for (const Group& group : groups_of(state)) {
    for (size_t i = 0; i < group.tensors->size(); ++i) {
      const at::Tensor& tensor = (*group.tensors)[i];
      entries.push_back({fmt::format("{}.{}", group.name, i), "F32", {tensor.numel()}});
      data.push_back(tensor.contiguous());
    }
  }
  const json progress = {{"step", state.step},
                         {"optimizer_steps", state.adamw.steps},
                         {"has_best", !state.best.empty()},
                         {"curve", curve_json(state.curve)}};
  SafetensorsWriter writer(path, entries,
                           {{"lowkey_training", kVersion},
                            {"settings", settings.dump()},
                            {"progress", progress.dump()}});
  for (const at::Tensor& tensor : data) {
    writer.write(std::as_bytes(
        std::span(tensor.const_data_ptr<float>(), static_cast<size_t>(tensor.numel()))));
  }
  writer.finish();
}

std::optional<TrainState> read_checkpoint(const std::filesystem::path& path, const json& settings,
                                          std::span<const at::Tensor> like) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  const SafetensorsFile file = SafetensorsFile::open(path);
  const auto text = [&](const char* key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) corrupt(path, fmt::format("it has no '{}'", key));
    return found->second;
  };
  if (text("lowkey_training") != kVersion) corrupt(path, "another version");
  const json was = json::parse(text("settings"), nullptr, /*allow_exceptions=*/false);
  if (!was.is_object()) corrupt(path, "its settings are no JSON object");
  check_settings(path, was, settings);

  std::map<std::string, TensorView> found;
  for (const TensorView& tensor : file.tensors()) found.emplace(tensor.name, tensor);
  TrainState state;
  bool has_best = false;
  try {
    const json progress = json::parse(text("progress"));
    state.step = progress.at("step").get<int64_t>();
    state.adamw.steps = progress.at("optimizer_steps").get<int64_t>();
    state.curve = curve_from(progress.at("curve"));
    has_best = progress.at("has_best").get<bool>();
  } catch (const json::exception&) {
    corrupt(path, "its progress cannot be read");
  }
  if (state.step < 0 || state.step != state.adamw.steps) corrupt(path, "its steps do not agree");
  state.tensors = read_group(found, "value", like, path);
  state.adamw.mean = read_group(found, "mean", like, path);
  state.adamw.square = read_group(found, "square", like, path);
  if (has_best) state.best = read_group(found, "best", like, path);
  return state;
}

}  // namespace lowkey::calibrate
