// config.json of a Hugging Face folder: refused with lowkey::Error, or a configuration that asks
// for weights of some names and shapes.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "load/hf_config.h"
#include "load/weight_names.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    lowkey::check_json_limits(text, {}, "config.json");
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (json.is_discarded()) return 0;
    const lowkey::ModelConfig config =
        lowkey::read_hf_config(lowkey::JsonFields(json, "config.json"));
    LOWKEY_CHECK(config.layers.size() == static_cast<size_t>(config.num_layers), "{} layers",
                 config.layers.size());
    if (config.num_layers > 8 || config.num_experts > 8) return 0;  // only long
    for (const lowkey::WeightSpec& spec :
         lowkey::weight_specs(config, lowkey::ModelFormat::kHuggingFace)) {
      for (int64_t dim : spec.shape) LOWKEY_CHECK(dim > 0, "{} of {}", dim, spec.canonical);
    }
  } catch (const lowkey::Error&) {
  }
  return 0;
}
