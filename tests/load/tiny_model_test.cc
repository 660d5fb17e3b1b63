// The tiny model of tests/support is what other tests compare with Python: it must be the same one.
#include "support/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/files.h"
#include "core/sha256.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using test::TinyModel;
using test::TinyModelOptions;

TinyModelOptions options_from(const nlohmann::json& json) {
  TinyModelOptions o;
  const auto set = [&](const char* name, auto& field) {
    if (json.contains(name)) field = json[name].get<std::remove_reference_t<decltype(field)>>();
  };
  set("seed", o.seed), set("layers", o.layers), set("hidden", o.hidden), set("heads", o.heads);
  set("kv_heads", o.kv_heads), set("head_dim", o.head_dim), set("ffn", o.ffn),
      set("vocab", o.vocab);
  set("max_context", o.max_context), set("tied", o.tied), set("attention_bias", o.attention_bias);
  set("mlp_bias", o.mlp_bias), set("norm_eps", o.norm_eps), set("rope_base", o.rope_base);
  set("shards", o.shards);
  const std::string scaling = json.value("rope_scaling", "none"),
                    dtype = json.value("dtype", "F32");
  if (scaling == "linear") o.rope_scaling = RopeScaling::kLinear;
  if (scaling == "llama3") o.rope_scaling = RopeScaling::kLlama3;
  if (dtype == "F16") o.dtype = DType::kF16;
  if (dtype == "BF16") o.dtype = DType::kBF16;
  return o;
}

TEST(TinyModel, EqualsPythonsByteForByte) {
  const auto golden = nlohmann::json::parse(read_file(test::golden("tiny_model.json")));
  ASSERT_GE(golden["cases"].size(), 3u);
  for (const auto& c : golden["cases"]) {
    SCOPED_TRACE(c["options"].dump());
    const test::TempDir folder;
    TinyModel(options_from(c["options"])).write_hugging_face(folder.path());
    std::set<std::string> written, expected;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
      written.insert(entry.path().filename());
    for (const auto& [name, hash] : c["sha256"].items()) {
      expected.insert(name);
      EXPECT_EQ(sha256_hex(read_file(folder / name)), hash) << name;
    }
    EXPECT_EQ(written, expected);
  }
}

}  // namespace
}  // namespace lowkey
