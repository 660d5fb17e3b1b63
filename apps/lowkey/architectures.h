#pragma once
// Well-known models by their public configurations, for planning without a file: what config.json
// of their repositories says, read as load/ reads it. Torch-free.
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "load/model_file.h"

namespace lowkey {

struct Architecture {
  std::string_view name;
  std::string_view config_json;  // the fields that matter, transformers 4's spelling

  ModelConfig config() const;  // its `name` is this one's
};

// By family, then size.
std::span<const Architecture> architectures();

// By name, whatever its case.
std::optional<Architecture> find_architecture(std::string_view name);

}  // namespace lowkey
