#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "support/paths.h"

namespace lowkey {
namespace {

RopeConfig config_of(const nlohmann::json& c) {
  RopeConfig config;
  config.base = c["base"];
  config.dim = c["dim"];
  config.attention_factor = c["attention_factor"];
  const nlohmann::json& scaling = c["scaling"];
  const std::string type = scaling["rope_type"];
  if (type == "default") return config;
  config.factor = scaling["factor"];
  config.scaling = type == "linear"   ? RopeScaling::kLinear
                   : type == "llama3" ? RopeScaling::kLlama3
                                      : RopeScaling::kYarn;
  if (type == "yarn") {
    config.original_context = scaling["original_max_position_embeddings"];
    config.beta_fast = scaling.value("beta_fast", 32.0);
    config.beta_slow = scaling.value("beta_slow", 1.0);
  }
  if (type == "llama3") {
    config.low_freq_factor = scaling["low_freq_factor"];
    config.high_freq_factor = scaling["high_freq_factor"];
    config.original_context = scaling["original_max_position_embeddings"];
  }
  return config;
}

// tools/make_rope_goldens.py: transformers in float32. A frequency may be off by one unit in the
// last place (torch's powf), twice that where scaling rounds again; an angle is then off by that
// times itself.
TEST(Rope, EqualsTransformers) {
  const auto golden = nlohmann::json::parse(read_file(test::golden("rope.json")));
  const std::vector<int64_t> positions = golden["positions"];
  int cases = 0;
  for (; golden.contains(fmt::format("case_{}", cases)); ++cases) {
    const auto& c = golden[fmt::format("case_{}", cases)];
    SCOPED_TRACE(c["scaling"].dump());
    const RopeFrequencies rope(config_of(c));
    const std::vector<double> inverse = c["inverse"];
    ASSERT_EQ(rope.half_dim(), std::ssize(inverse));
    constexpr double kUnit = 0x1p-23;
    for (size_t i = 0; i < inverse.size(); ++i) {
      EXPECT_NEAR(rope.inverse()[i], inverse[i], 2 * kUnit * inverse[i]) << "frequency " << i;
    }
    std::vector<float> cos(inverse.size()), sin(inverse.size());
    for (size_t p = 0; p < positions.size(); ++p) {
      rope.at(positions[p], cos.data(), sin.data());
      for (size_t i = 0; i < inverse.size(); ++i) {
        const double angle = static_cast<double>(positions[p]) * inverse[i];
        const double tolerance =
            (3 * kUnit * angle + 2 * kUnit) * c["attention_factor"].get<double>();
        EXPECT_NEAR(cos[i], c["cos"][p][i].get<double>(), tolerance)
            << "position " << positions[p] << ", frequency " << i;
        EXPECT_NEAR(sin[i], c["sin"][p][i].get<double>(), tolerance)
            << "position " << positions[p] << ", frequency " << i;
      }
    }
  }
  EXPECT_EQ(cases, 11);
}

// llama.cpp writes llama3's scaling as divisors; both must mean the same.
TEST(Rope, DivisorsReplaceScaling) {
  RopeConfig config;
  config.base = 500000.0;
  config.dim = 64;
  config.scaling = RopeScaling::kLlama3;
  config.factor = 32.0;
  config.original_context = 8192;
  const RopeFrequencies scaled(config);
  RopeConfig plain = config;
  plain.scaling = RopeScaling::kNone;
  const RopeFrequencies unscaled(plain);
  RopeConfig divided = config;  // `scaling` stays set: divisors override it
  for (size_t i = 0; i < 32; ++i) {
    divided.freq_divisors.push_back(unscaled.inverse()[i] / scaled.inverse()[i]);
  }
  const RopeFrequencies from_file(divided);
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_FLOAT_EQ(from_file.inverse()[i], scaled.inverse()[i]) << i;
  }
  EXPECT_EQ(divided.freq_divisors.front(), 1.0f);
  EXPECT_FLOAT_EQ(divided.freq_divisors.back(), 32.0f);
}

TEST(Rope, DivisorsGoWithAnAttentionFactor) {
  RopeConfig config;
  config.dim = 8;
  config.freq_divisors = {1.0f, 1.5f, 2.0f, 4.0f};
  const RopeFrequencies plain(config);
  config.attention_factor = 1.25;
  const RopeFrequencies louder(config);
  float cos[4], sin[4], louder_cos[4], louder_sin[4];
  plain.at(11, cos, sin);
  louder.at(11, louder_cos, louder_sin);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(louder.inverse()[static_cast<size_t>(i)], plain.inverse()[static_cast<size_t>(i)]);
    EXPECT_EQ(louder_cos[i], cos[i] * 1.25f);
    EXPECT_EQ(louder_sin[i], sin[i] * 1.25f);
  }
}

TEST(Rope, TablesOfAModelAreThoseItsLayersUse) {
  ModelConfig config;
  config.rope.dim = 8;
  config.local_rope.dim = 4;
  config.layers.resize(2);
  EXPECT_EQ(RopeTables(config).main.half_dim(), 4);
  EXPECT_EQ(RopeTables(config).local.half_dim(), 0);
  config.layers[0].rope = RopeUse::kLocal;
  EXPECT_EQ(RopeTables(config).main.half_dim(), 4);
  EXPECT_EQ(RopeTables(config).local.half_dim(), 2);
  config.layers[1].rope = RopeUse::kNone;
  EXPECT_EQ(RopeTables(config).main.half_dim(), 0);
}

TEST(Rope, NothingRotatesAtPositionZero) {
  RopeConfig config;
  config.dim = 8;
  const RopeFrequencies rope(config);
  float cos[4], sin[4];
  rope.at(0, cos, sin);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(cos[i], 1.0f);
    EXPECT_EQ(sin[i], 0.0f);
  }
}

TEST(Rope, RefusesWhatCannotBe) {
  const auto message = [](const RopeConfig& config) -> std::string {
    try {
      RopeFrequencies rope(config);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  RopeConfig config;
  config.dim = 7;
  EXPECT_EQ(message(config), "RoPE over 7 channels: not an even number");
  config.dim = 8;
  config.freq_divisors = {1.0f, 2.0f, 4.0f};
  EXPECT_EQ(message(config), "3 RoPE divisors for 4 frequencies");
}

}  // namespace
}  // namespace lowkey
