#pragma once
// What a probe found as JSON: the object that `lowkey probe --json` writes and reports embed.
// Torch-free.
#include <nlohmann/json.hpp>
#include <string_view>

#include "load/tokenizer.h"
#include "probe/probe.h"
#include "probe/sensitivity.h"

namespace lowkey {

// Numbers are finite, text is valid UTF-8 (a token that is a part of a character is U+FFFD).
// `sensitivity` may be empty.
nlohmann::ordered_json probe_json(const ProbeResult& result, std::string_view model_name,
                                  const Tokenizer& tokenizer,
                                  std::span<const LayerSensitivity> sensitivity = {});

}  // namespace lowkey
