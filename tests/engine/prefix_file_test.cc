#include "engine/prefix_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "core/files.h"
#include "core/sha256.h"
#include "engine/engine.h"
#include "engine/make_prefix.h"
#include "support/message_of.h"
#include "support/paths.h"
#include "support/safetensors_writer.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using test::message_of;
using testing::HasSubstr;

class PrefixFileTest : public testing::Test {
 protected:
  std::filesystem::path write_model(const std::string& name, uint64_t seed) const {
    const auto path = folder_ / name;
    test::TinyModel({.seed = seed, .layers = 3, .head_dim = 32}).write_gguf(path);
    return path;
  }
  std::unique_ptr<Engine> engine(uint64_t seed = 5) const {
    return std::make_unique<Engine>(write_model(fmt::format("{}.gguf", seed), seed),
                                    EngineOptions{.weights = WeightStorage::kF32, .threads = 2},
                                    ProgressFn{});
  }
  test::TempDir folder_;
};

std::vector<int32_t> ids(size_t count) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 41 + 3) % 250));
  return ids;
}

TEST_F(PrefixFileTest, ComesBackAsItWas) {
  const auto engine = this->engine();
  PrefixFile made = make_prefix(engine->model(), engine->file(), ids(24));
  made.name = "a \"name\"";
  made.command = "lowkey calibrate";
  made.notes = {{"trained_on", "text é"}};
  write_prefix(folder_ / "p", made);
  const PrefixFile read = read_prefix(folder_ / "p", sha256_hex(read_file(folder_ / "p")));
  EXPECT_EQ(read.prefix->tokens, ids(24));
  EXPECT_EQ(read.prefix->k, made.prefix->k);
  EXPECT_EQ(read.prefix->v, made.prefix->v);
  EXPECT_EQ(read.prefix->hidden, made.prefix->hidden);
  EXPECT_EQ(read.prefix->num_layers, 3);
  EXPECT_EQ(read.model_sha256, engine->file().source_fingerprint());
  EXPECT_EQ(read.tokenizer_sha256, tokenizer_fingerprint(engine->tokenizer().spec()));
  EXPECT_EQ(read.name, made.name);
  EXPECT_EQ(read.command, made.command);
  EXPECT_EQ(read.notes, made.notes);
  check_prefix(read, "p", engine->file());
  EXPECT_THAT(message_of([&] { read_prefix(folder_ / "p", std::string(64, 'a')); },
                         ErrorCode::kInvalidArgument),
              HasSubstr("begins with"));
  EXPECT_THAT(message_of([&] { read_prefix(folder_ / "none"); }, ErrorCode::kNotFound),
              HasSubstr("none"));
}

// A sequence that begins with it is one that the model ran it on.
TEST_F(PrefixFileTest, IsWhatTheModelWouldHaveStored) {
  const auto engine = this->engine();
  for (const size_t count : {1, 24, 130}) {
    const PrefixFile made = make_prefix(engine->model(), engine->file(), ids(count));
    const CacheSpec spec(
        resolve_recipe(parse_recipe("kivi-2:r32"), engine->kv_shape(), static_cast<int64_t>(count)),
        made.prefix);
    KvCache given(spec), plain(spec.recipe);
    KvSequence with = given.new_sequence(), without = plain.new_sequence();
    std::vector<float> last(static_cast<size_t>(engine->file().config().hidden_size));
    prefill(engine->model(), without, ids(count), RowsWanted::kLast, last.data(), {}, "");
    for (int32_t layer = 0; layer < 3; ++layer) {
      for (int32_t head = 0; head < 2; ++head) {
        for (const Side side : {Side::kKey, Side::kValue}) {
          ASSERT_EQ(with.state_bytes(layer, head, side), without.state_bytes(layer, head, side))
              << count << " tokens, layer " << layer;
        }
      }
    }
    for (size_t i = 0; i < last.size(); ++i) ASSERT_NEAR(made.prefix->hidden[i], last[i], 1e-4);
  }
}

TEST_F(PrefixFileTest, OfAnotherModelIsRefused) {
  const auto engine = this->engine(5);
  const auto other = this->engine(6);
  PrefixFile made = make_prefix(engine->model(), engine->file(), ids(3));
  write_prefix(folder_ / "p", made);
  KvRecipe recipe = parse_recipe("16+i@" + (folder_ / "p").string());
  const CacheSpec spec = cache_spec(recipe, engine->file());
  EXPECT_EQ(spec.recipe.intact_prefix, 3);
  EXPECT_EQ(spec.prefix->tokens, ids(3));
  EXPECT_EQ(prefix_tokens(recipe), 3);
  EXPECT_THAT(message_of([&] { cache_spec(recipe, other->file()); }, ErrorCode::kInvalidArgument),
              HasSubstr("p: made for another model"));
  recipe.calibration->sha256 = std::string(64, '0');
  EXPECT_THAT(message_of([&] { cache_spec(recipe, engine->file()); }, ErrorCode::kInvalidArgument),
              HasSubstr("not the prefix that the recipe was made with"));
  made.tokenizer_sha256 = std::string(64, 'b');
  EXPECT_THAT(
      message_of([&] { check_prefix(made, "p", engine->file()); }, ErrorCode::kInvalidArgument),
      HasSubstr("p: made for another tokenizer (bbbb"));
  // What no one but a person's hand makes.
  made = make_prefix(engine->model(), engine->file(), ids(3));
  auto wrong = std::make_shared<IntactPrefix>(*made.prefix);
  wrong->tokens[1] = 320;
  made.prefix = wrong;
  EXPECT_THAT(
      message_of([&] { check_prefix(made, "p", engine->file()); }, ErrorCode::kInvalidArgument),
      HasSubstr("p: 3 tokens in 3 layers of 2 KV heads x 32"));
}

TEST_F(PrefixFileTest, NeedsTokens) {
  const auto engine = this->engine();
  EXPECT_EQ(message_of([&] { make_prefix(engine->model(), engine->file(), {}); },
                       ErrorCode::kInvalidArgument),
            "a prefix of 0 tokens: 1 to 65536");
}

// Rows times H / sqrt(n), twice: what was there, up to f16.
TEST_F(PrefixFileTest, IsTurnedForModelsThatRotate) {
  const auto engine = this->engine();
  const auto plain = make_prefix(engine->model(), engine->file(), ids(4)).prefix;
  ModelConfig config = engine->file().config();
  EXPECT_EQ(prefix_for(plain, config), plain) << "the very object";
  config.hadamard_qk = true;
  const auto turned = prefix_for(plain, config);
  EXPECT_NE(turned->k, plain->k);
  EXPECT_EQ(turned->v, plain->v);
  EXPECT_TRUE(turned->hidden.empty());
  float sum = 0;
  for (int32_t c = 0; c < 32; ++c) sum += half_to_float(plain->k[static_cast<size_t>(c)]);
  EXPECT_NEAR(half_to_float(turned->k[0]), sum / std::sqrt(32.0f), 1e-2);
  config.hadamard_v = true;
  const auto both = prefix_for(turned, config);
  EXPECT_NE(both->v, plain->v);
  for (size_t i = 0; i < plain->k.size(); ++i) {
    ASSERT_NEAR(half_to_float(both->k[i]), half_to_float(plain->k[i]), 2e-2);
  }
  config.head_dim = 48;
  EXPECT_THAT(message_of([&] { prefix_for(plain, config); }, ErrorCode::kUnsupported),
              HasSubstr("48"));
}

TEST_F(PrefixFileTest, DamageIsNamed) {
  const std::string hash(64, 'a');
  const auto written = [&](const std::function<void(test::SafetensorsWriter&)>& damage) {
    test::SafetensorsWriter file;
    file.metadata = {{"lowkey_prefix", "1"},
                     {"model_sha256", hash},
                     {"tokenizer_sha256", hash},
                     {"tokens", "[1, 2]"}};
    const std::string rows(2 * 1 * 2 * 2, '\0');
    file.add_tensor("layers.0.k", "F16", {2, 1, 2}, rows);
    file.add_tensor("layers.0.v", "F16", {2, 1, 2}, rows);
    file.add_tensor("hidden", "F32", {1}, std::string(4, '\0'));
    damage(file);
    file.write(folder_ / "p");
    return message_of([&] { read_prefix(folder_ / "p"); }, file.metadata["lowkey_prefix"] == "2"
                                                               ? ErrorCode::kUnsupported
                                                               : ErrorCode::kCorruptFile);
  };
  EXPECT_EQ(written([](auto&) {}), "nothing was thrown");
  EXPECT_THAT(written([](auto& f) { f.metadata.erase("lowkey_prefix"); }),
              HasSubstr("not a prefix"));
  EXPECT_THAT(written([](auto& f) { f.metadata["lowkey_prefix"] = "2"; }),
              HasSubstr("prefix version 2"));
  EXPECT_THAT(written([](auto& f) { f.metadata["model_sha256"] = "x"; }),
              HasSubstr("'model_sha256' is no SHA-256"));
  EXPECT_THAT(written([](auto& f) { f.metadata.erase("tokens"); }), HasSubstr("no 'tokens'"));
  for (const char* tokens :
       {"[]", "7", "[1, 2", "[1, -2]", "[1, 2.5]", "[1, 3000000000]", "[[1], 2]", "{}"}) {
    EXPECT_THAT(written([&](auto& f) { f.metadata["tokens"] = tokens; }), HasSubstr("p: "))
        << tokens;
  }
  EXPECT_THAT(written([](auto& f) { f.metadata["tokens"] = "[1]"; }),
              HasSubstr("'layers.0.k' is [2, 1, 2], not [1, 1, 2]"));
  EXPECT_THAT(written([](auto& f) { f.add_tensor("more", "F16", {1}, "12"); }),
              HasSubstr("not the keys and values of a prefix"));
  EXPECT_THAT(written([](auto& f) {
                f.add_tensor("layers.1.k", "F16", {2, 1, 2}, std::string(8, '\0'));
                f.add_tensor("layers.1.w", "F16", {2, 1, 2}, std::string(8, '\0'));
              }),
              HasSubstr("'layers.1.v' is missing"));
}

}  // namespace
}  // namespace lowkey
