#pragma once
// The matrices of tests/golden/weights.json, as tools/make_weight_goldens.py makes them.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/files.h"
#include "core/rng.h"
#include "support/paths.h"
#include "weights/grid.h"

namespace lowkey::test {

struct WeightCase {
  WeightGrid grid;
  int64_t rows, cols, tokens;
  std::vector<float> weight;  // [rows, cols]
  std::vector<float> x;       // [tokens, cols]
  nlohmann::json golden;

  std::vector<float> values(const char* name) const { return golden.at(name); }
};

inline std::vector<float> uniform_floats(SplitMix64& rng, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(rng.uniform() * 2 - 1);
  return values;
}

inline std::vector<float> decoded(const BlockMatrix& matrix, ThreadPool& pool) {
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  decode_blocks(matrix, values.data(), pool);
  return values;
}

inline std::vector<WeightCase> weight_cases() {
  std::vector<WeightCase> cases;
  const auto goldens = nlohmann::json::parse(read_file(golden("weights.json")));
  for (const nlohmann::json& json : goldens["cases"]) {
    WeightCase c{.grid = {.bits = json["bits"], .group = json["group"]},
                 .rows = json["rows"],
                 .cols = json["cols"],
                 .tokens = json["tokens"],
                 .weight = {},
                 .x = {},
                 .golden = json};
    SplitMix64 rng(json["seed"]);
    c.weight = uniform_floats(rng, c.rows * c.cols);
    c.x = uniform_floats(rng, c.tokens * c.cols);
    for (int64_t t = 0; t < c.tokens; ++t) {
      float* const row = c.x.data() + t * c.cols;
      for (int64_t i = c.cols - 1; i > 0; --i) row[i] += 0.5f * row[i - 1];
      for (int64_t i = 0; i < c.cols; ++i) row[i] *= 1.0f + static_cast<float>(i % 7);
      row[5] = 0;
    }
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace lowkey::test
