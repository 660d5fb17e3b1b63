#include <gtest/gtest.h>

#include "recipe/errors.h"
#include "recipe/recipe.h"

namespace lowkey {
namespace {

const KvShape kSmol{.num_layers = 30, .num_kv_heads = 3, .head_dim = 64};

TEST(ResolveRecipe, EveryLayerAndHeadGetsItsRule) {
  const ResolvedRecipe resolved =
      resolve_recipe(parse_recipe("0-1=16,7=8/4,*=kivi-4/2:r32+i1"), kSmol);
  ASSERT_EQ(resolved.layers.size(), 30u);
  for (size_t i = 0; i < 30; ++i) {
    const ResolvedLayer& layer = resolved.layers[i];
    ASSERT_EQ(layer.heads.size(), 3u);
    const int32_t k_bits = i < 2 ? 16 : i == 7 ? 8 : 4;
    const int32_t v_bits = i < 2 ? 16 : i == 7 ? 4 : 2;
    const int32_t residual = i < 2 || i == 7 ? 0 : 32;
    EXPECT_EQ(layer.residual_length, residual) << i;
    for (const HeadRecipe& head : layer.heads) {
      EXPECT_EQ(head.k.bits, k_bits) << i;
      EXPECT_EQ(head.v.bits, v_bits) << i;
    }
  }
  EXPECT_EQ(resolved.intact_prefix, 1);
  EXPECT_EQ(resolved.prefill, PrefillMode::kCached);
  EXPECT_EQ(resolved.label, "0-1=16,7=8/4,*=kivi-4/2:r32+i1");
  EXPECT_EQ(resolved.shape.head_dim, 64);
}

TEST(ResolveRecipe, APrefixIsExactWhateverTheRecipeSays) {
  const auto exact = [](const char* text, int64_t tokens) {
    return resolve_recipe(parse_recipe(text), kSmol, tokens).intact_prefix;
  };
  EXPECT_EQ(exact("4+i@p", 24), 24);
  EXPECT_EQ(exact("4+i3", 24), 24);
  EXPECT_EQ(exact("4+i30", 24), 30);
  EXPECT_EQ(resolve_recipe(parse_recipe("4+i@p"), kSmol, 1).label, "4+i@p");
  EXPECT_EQ(complaint([] { resolve_recipe(parse_recipe("4"), kSmol, 65537); }),
            "invalid_argument: recipe 4: a prefix of 65537 tokens: 1 to 65536");
}

TEST(ResolveRecipe, GroupsBecomeNumbers) {
  const ResolvedRecipe resolved = resolve_recipe(parse_recipe("8"), kSmol);
  EXPECT_EQ(resolved.layers[0].heads[0].k.group_size, 64);
  EXPECT_EQ(resolved.layers[0].heads[0].k.axis, QuantAxis::kPerToken);
}

TEST(ResolveRecipe, WindowsAreGivenForEveryLayerOrNone) {
  KvShape shape{.num_layers = 3, .num_kv_heads = 1, .head_dim = 64, .windows = {0, 4096, 1}};
  const ResolvedRecipe resolved = resolve_recipe(parse_recipe("4:r8"), shape);
  EXPECT_EQ(resolved.shape.window(0), 0);
  EXPECT_EQ(resolved.shape.window(1), 4096);
  EXPECT_EQ(resolve_recipe(parse_recipe("4"), kSmol).shape.window(29), 0);
  shape.windows = {0, -1, 1};
  EXPECT_EQ(complaint([&] { resolve_recipe(parse_recipe("4"), shape); }),
            "invalid_argument: the attention window of layer 1 is -1: at least 1 token, or 0 for "
            "all");
  shape.windows = {0, 1};
  EXPECT_EQ(complaint([&] { resolve_recipe(parse_recipe("4"), shape); }),
            "invalid_argument: attention windows are given for 2 layers: the model has 3");
}

TEST(ResolveRecipe, LabelIsTheNameWhenThereIsOne) {
  KvRecipe recipe = parse_recipe("8");
  recipe.name = "front-3.25";
  EXPECT_EQ(resolve_recipe(recipe, kSmol).label, "front-3.25");
}

TEST(ResolveRecipe, UnpackedLayersHaveNoWindow) {
  KvRecipe recipe = parse_recipe("16");
  recipe.rules[0].layer.residual_length = 100;
  recipe.rules[0].layer.window = WindowRule::kBlock;
  recipe.rules[0].layer.k.axis = QuantAxis::kPerChannel;
  const ResolvedRecipe resolved = resolve_recipe(recipe, kSmol);
  EXPECT_EQ(resolved.layers[0].residual_length, 0);
  EXPECT_EQ(resolved.layers[0].window, WindowRule::kKivi);
  EXPECT_EQ(resolved.layers[0].heads[0].k, SideRecipe{.bits = 16});
}

TEST(ResolveRecipe, OneHeadMayDiffer) {
  KvRecipe recipe = parse_recipe("kivi-4/2:r64");
  const SideRecipe eight{.bits = 8};
  recipe.rules[0].layer.heads[1] = HeadRecipe{eight, SideRecipe{.bits = 16}};
  const ResolvedRecipe resolved = resolve_recipe(recipe, kSmol);
  const auto& heads = resolved.layers[29].heads;
  EXPECT_EQ(heads[0].k.bits, 4);
  EXPECT_EQ(heads[1].k.bits, 8);
  EXPECT_EQ(heads[1].k.group_size, 64);
  EXPECT_EQ(heads[1].v.bits, 16);
  EXPECT_EQ(heads[2].v.bits, 2);
}

TEST(ResolveRecipe, RestMayBeEmpty) {
  EXPECT_NO_THROW(resolve_recipe(parse_recipe("0-29=4,*=8"), kSmol));
}

TEST(ResolveRecipe, UnpackedTakesAnyHeadDim) {
  EXPECT_NO_THROW(
      resolve_recipe(parse_recipe("16/32"), {.num_layers = 1, .num_kv_heads = 1, .head_dim = 7}));
}

TEST(ResolveRecipe, PackedTakesEveryMultipleOfSixteen) {
  for (int32_t head_dim = 16; head_dim <= 256; head_dim += 16) {
    const KvShape shape{.num_layers = 1, .num_kv_heads = 1, .head_dim = head_dim};
    for (const char* text : {"2", "3", "4", "8", "3:g16"}) {
      EXPECT_NO_THROW(resolve_recipe(parse_recipe(text), shape)) << text << ' ' << head_dim;
    }
  }
}

TEST(ResolveRecipe, SlidingWindowsTakeAnyLength) {
  for (const char* text : {"4:r0", "4:r1", "4:r65536", "4:r37:block", "kivi-16/2:r5"}) {
    EXPECT_NO_THROW(resolve_recipe(parse_recipe(text), kSmol)) << text;
  }
}

struct Wrong {
  const char* text;
  const char* message;
};

class ResolveRefuses : public testing::TestWithParam<Wrong> {};

TEST_P(ResolveRefuses, NamingTheLayers) {
  EXPECT_EQ(complaint([] { resolve_recipe(parse_recipe(GetParam().text), kSmol); }),
            GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Rules, ResolveRefuses,
    testing::Values(
        Wrong{"0-3=4",
              "invalid_argument: recipe 0-3=4: layer 4 is not covered: the model has "
              "layers 0-29; add *=... for the rest"},
        Wrong{"1-29=4",
              "invalid_argument: recipe 1-29=4: layer 0 is not covered: the model has "
              "layers 0-29; add *=... for the rest"},
        Wrong{"0-3=4,2-5=8,*=16",
              "invalid_argument: recipe 0-3=4,2-5=8,*=16: layer 2 is covered "
              "twice: by 0-3 and by 2-5"},
        Wrong{"*=4,*=8",
              "invalid_argument: recipe *=4,*=8: layers *: given twice; the rest is "
              "named once"},
        Wrong{"28-30=4,*=8",
              "invalid_argument: recipe 28-30=4,*=8: layers 28-30: the model has "
              "layers 0-29"},
        Wrong{"kivi-4:r100",
              "invalid_argument: recipe kivi-4:r100: layers *, keys: "
              "residual_length: 100: per channel, it is a multiple of the group "
              "(32), such as :r32"},
        Wrong{"kivi-4:r0",
              "invalid_argument: recipe kivi-4:r0: layers *, keys: residual_length: "
              "0: per channel, it is a multiple of the group (32), such as :r32"},
        Wrong{"kivi-4:g64:r32",
              "invalid_argument: recipe kivi-4:g64:r32: layers *, keys: "
              "residual_length: 32: per channel, it is a multiple of the group "
              "(64), such as :r64"},
        Wrong{"2=kivi-4:g16,*=4",
              "invalid_argument: recipe 2=kivi-4:g16,*=4: layers 2, keys: "
              "group_size: 16: per channel, groups hold 32, 64 or 128 tokens"},
        Wrong{"4:g48",
              "invalid_argument: recipe 4:g48: layers *, keys: group_size: 48: per "
              "token, groups divide head_dim, which is 64"},
        Wrong{"kivi-4:g128",
              "invalid_argument: recipe kivi-4:g128: layers *, values: group_size: "
              "128: per token, groups divide head_dim, which is 64"},
        Wrong{"4:g8",
              "unsupported: recipe 4:g8: layers *, keys: group_size: 8: per token, groups "
              "are multiples of 16 channels"}));

struct Edit {
  const char* what;
  void (*edit)(KvRecipe&);
  const char* message;  // after the code and the label
};

class ResolveRefusesField : public testing::TestWithParam<Edit> {};

TEST_P(ResolveRefusesField, ByName) {
  KvRecipe recipe = parse_recipe("kivi-4/2");
  recipe.name = "r";
  GetParam().edit(recipe);
  EXPECT_EQ(complaint([&] { resolve_recipe(recipe, kSmol); }), GetParam().message);
}

LayerRecipe& first(KvRecipe& recipe) {
  return recipe.rules[0].layer;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, ResolveRefusesField,
    testing::Values(
        Edit{"quantizer", [](KvRecipe& r) { first(r).k.quantizer = Quantizer::kLog; },
             "unsupported: recipe r: layers *, keys: quantizer: log is not available yet, only "
             "affine"},
        Edit{"scales", [](KvRecipe& r) { first(r).v.scales = ScaleChoice::kMse; },
             "unsupported: recipe r: layers *, values: scales: mse is not available yet, only "
             "minmax"},
        Edit{"transform", [](KvRecipe& r) { first(r).k.transform = Transform::kHadamard; },
             "unsupported: recipe r: layers *, keys: transform: hadamard is not available yet, "
             "only none"},
        Edit{"key_rope", [](KvRecipe& r) { first(r).key_rope = KeyRope::kBefore; },
             "unsupported: recipe r: layers *: key_rope: before is not available yet, only after"},
        Edit{"protect", [](KvRecipe& r) { r.protect = 4; },
             "unsupported: recipe r: protect: exact heavy-hitter tokens are not available yet"},
        Edit{"score_correction", [](KvRecipe& r) { r.score_correction = true; },
             "unsupported: recipe r: score_correction is not available yet"},
        Edit{"calibration",
             [](KvRecipe& r) {
               r.calibration = {"p.safetensors", ""};
             },
             "invalid_argument: recipe r: its intact prefix is in p.safetensors, which is not read "
             "here: say +iN instead"},
        Edit{"head", [](KvRecipe& r) { first(r).heads[3] = {}; },
             "invalid_argument: recipe r: layers *: head 3: the model has KV heads 0-2"},
        Edit{"head_side",
             [](KvRecipe& r) {
               first(r).heads[2].v = {.bits = 4, .axis = QuantAxis::kPerToken, .group_size = 24};
             },
             "invalid_argument: recipe r: layers *, head 2, values: group_size: 24: per token, "
             "groups divide head_dim, which is 64"},
        Edit{"bits", [](KvRecipe& r) { first(r).k.bits = 6; },
             "invalid_argument: recipe r: layers *, keys: 6 bits: 2, 3, 4, 8, 16 or 32"},
        Edit{"group_is_head", [](KvRecipe& r) { first(r).k.group_size = kGroupIsHeadDim; },
             "invalid_argument: recipe r: layers *, keys: group_size: head: per channel, groups "
             "hold 32, 64 or 128 tokens"},
        Edit{"block_without_window",
             [](KvRecipe& r) {
               first(r).k = SideRecipe{.bits = 16};
               first(r).residual_length = 0;
               first(r).window = WindowRule::kBlock;
             },
             "invalid_argument: recipe r: layers *, values: window: block needs a "
             "residual_length, such as :r32:block"},
        Edit{"residual", [](KvRecipe& r) { first(r).residual_length = kMaxResidualLength + 1; },
             "invalid_argument: recipe r: layers *: residual_length: 65537 is out of range: 0 to "
             "65536"},
        Edit{"prefix", [](KvRecipe& r) { r.intact_prefix = -1; },
             "invalid_argument: recipe r: intact_prefix: -1 is out of range: 0 to 65536"}),
    [](const auto& edit) { return std::string(edit.param.what); });

TEST(ResolveRecipe, RefusesShapesThatNoCacheHas) {
  const KvRecipe recipe = parse_recipe("16");
  const auto shape_complaint = [&](KvShape shape) {
    return complaint([&] { resolve_recipe(recipe, shape); });
  };
  EXPECT_EQ(shape_complaint({0, 1, 64}),
            "invalid_argument: num_layers is 0: a cache has 1 to 1024");
  EXPECT_EQ(shape_complaint({1, 1025, 64}),
            "invalid_argument: num_kv_heads is 1025: a cache has 1 to 1024");
  EXPECT_EQ(shape_complaint({1, 1, -64}),
            "invalid_argument: head_dim is -64: a cache has 1 to 1024");
}

TEST(ResolveRecipe, PackedRefusesOtherHeadDims) {
  const KvShape shape{.num_layers = 1, .num_kv_heads = 1, .head_dim = 72};
  EXPECT_EQ(complaint([&] { resolve_recipe(parse_recipe("4"), shape); }),
            "unsupported: recipe 4: layers *, keys: 4 bits: packed formats need a head_dim that "
            "is a multiple of 16; the model's is 72 (16 and 32 bits take any)");
}

}  // namespace
}  // namespace lowkey
