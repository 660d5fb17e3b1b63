#include "recipe/short_form.h"

#include <gtest/gtest.h>

#include "recipe/errors.h"
#include "recipe/random_recipe.h"

namespace lowkey {
namespace {

SideRecipe per_token(int32_t bits, int32_t group) {
  return {.bits = bits, .axis = QuantAxis::kPerToken, .group_size = group};
}
SideRecipe per_channel(int32_t bits, int32_t group) {
  return {.bits = bits, .axis = QuantAxis::kPerChannel, .group_size = group};
}
LayerRecipe layer(SideRecipe k, SideRecipe v, int32_t residual,
                  WindowRule window = WindowRule::kKivi) {
  return {.k = k, .v = v, .heads = {}, .residual_length = residual, .window = window};
}

struct Meaning {
  std::string text;
  LayerRecipe layer;
};

class ShortFormMeans : public testing::TestWithParam<Meaning> {};

TEST_P(ShortFormMeans, OneLayer) {
  const KvRecipe recipe = parse_recipe(GetParam().text);
  ASSERT_EQ(recipe.rules.size(), 1u);
  EXPECT_TRUE(recipe.rules[0].rest);
  EXPECT_EQ(recipe.rules[0].layer, GetParam().layer);
  EXPECT_EQ(recipe.intact_prefix, 0);
}

const SideRecipe kF16{.bits = 16};
const SideRecipe kF32{.bits = 32};

INSTANTIATE_TEST_SUITE_P(
    Grammar, ShortFormMeans,
    testing::Values(Meaning{"16", layer(kF16, kF16, 0)}, Meaning{"32", layer(kF32, kF32, 0)},
                    Meaning{"32/16", layer(kF32, kF16, 0)},
                    Meaning{"4", layer(per_token(4, 0), per_token(4, 0), 0)},
                    Meaning{"8/4", layer(per_token(8, 0), per_token(4, 0), 0)},
                    Meaning{"16/2", layer(kF16, per_token(2, 0), 0)},
                    Meaning{"3:r32", layer(per_token(3, 0), per_token(3, 0), 32)},
                    Meaning{"3:g64", layer(per_token(3, 64), per_token(3, 64), 0)},
                    Meaning{"3:ghead", layer(per_token(3, 0), per_token(3, 0), 0)},
                    Meaning{"3:r32:block",
                            layer(per_token(3, 0), per_token(3, 0), 32, WindowRule::kBlock)},
                    Meaning{"kivi-2", layer(per_channel(2, 32), per_token(2, 32), 128)},
                    Meaning{"kivi-4/2", layer(per_channel(4, 32), per_token(2, 32), 128)},
                    Meaning{"kivi-4/2:g64:r64", layer(per_channel(4, 64), per_token(2, 64), 64)},
                    Meaning{"kivi-4/2:block:r32",
                            layer(per_channel(4, 32), per_token(2, 32), 32, WindowRule::kBlock)},
                    Meaning{"kivi-16/2", layer(kF16, per_token(2, 32), 128)},
                    Meaning{"kivi-16/2:ghead:r0", layer(kF16, per_token(2, 0), 0)},
                    Meaning{"kivi-2/16", layer(per_channel(2, 32), kF16, 128)},
                    Meaning{"kivi-4/2:g32/64:r32", layer(per_channel(4, 32), per_token(2, 64), 32)},
                    Meaning{"kivi-3:g64/head:r64", layer(per_channel(3, 64), per_token(3, 0), 64)},
                    Meaning{"8/4:ghead/16", layer(per_token(8, 0), per_token(4, 16), 0)}));

TEST(ShortForm, LayersAndPrefix) {
  const KvRecipe recipe = parse_recipe("0-1=16,7=8/4,*=kivi-4/2:r32+i3");
  ASSERT_EQ(recipe.rules.size(), 3u);
  EXPECT_EQ(recipe.rules[0], (LayerRule{.first = 0, .last = 1, .layer = layer(kF16, kF16, 0)}));
  EXPECT_EQ(
      recipe.rules[1],
      (LayerRule{.first = 7, .last = 7, .layer = layer(per_token(8, 0), per_token(4, 0), 0)}));
  EXPECT_EQ(recipe.rules[2],
            (LayerRule{.rest = true, .layer = layer(per_channel(4, 32), per_token(2, 32), 32)}));
  EXPECT_EQ(recipe.intact_prefix, 3);
}

TEST(ShortForm, PrefixAloneWithOneRecipe) {
  EXPECT_EQ(parse_recipe("kivi-2+i1").intact_prefix, 1);
  EXPECT_EQ(parse_recipe("16+i0"), parse_recipe("16"));
}

struct Canonical {
  const char* text;
  const char* shortest;
};

class ShortFormPrints : public testing::TestWithParam<Canonical> {};

TEST_P(ShortFormPrints, TheShortestText) {
  EXPECT_EQ(recipe_to_string(parse_recipe(GetParam().text)), GetParam().shortest);
}

INSTANTIATE_TEST_SUITE_P(Grammar, ShortFormPrints,
                         testing::Values(Canonical{"16/16", "16"}, Canonical{"4/4:ghead:r0", "4"},
                                         Canonical{"kivi-4/4:g32:r128", "kivi-4"},
                                         Canonical{"*=8", "8"}, Canonical{"0-0=8,*=4", "0=8,*=4"},
                                         Canonical{"16/2:g32:r128", "kivi-16/2"},
                                         Canonical{"kivi-16/2:ghead:r0", "16/2"},
                                         Canonical{"kivi-2:block:r32+i0", "kivi-2:r32:block"},
                                         Canonical{"0-29=kivi-2+i1", "0-29=kivi-2+i1"},
                                         Canonical{"*=4+i@p.safetensors", "4+i@p.safetensors"},
                                         Canonical{"16+i@+i@a=b,c:d/é", "16+i@+i@a=b,c:d/é"}));

TEST(ShortForm, NamesAPrefixsFile) {
  const KvRecipe recipe = parse_recipe("0=16,*=kivi-2:r32+i@dir/p24.safetensors");
  EXPECT_EQ(recipe.calibration, (CalibrationRef{"dir/p24.safetensors", ""}));
  EXPECT_EQ(recipe.intact_prefix, 0) << "how many the file knows";
  EXPECT_EQ(recipe.rules.size(), 2u);
}

struct Wrong {
  const char* text;
  const char* message;
};

class ShortFormRefuses : public testing::TestWithParam<Wrong> {};

TEST_P(ShortFormRefuses, NamingThePlace) {
  EXPECT_EQ(complaint([] { parse_recipe(GetParam().text); }),
            std::string("invalid_argument: recipe ") + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Grammar, ShortFormRefuses,
    testing::Values(
        Wrong{"",
              "'', column 1, at the end: bits are 2, 3, 4, 8, 16 or 32 (keys/values, such as "
              "8/4)"},
        Wrong{"5",
              "'5', column 1, at '5': bits are 2, 3, 4, 8, 16 or 32 (keys/values, such as "
              "8/4)"},
        Wrong{"kivi-4/5",
              "'kivi-4/5', column 8, at '5': bits are 2, 3, 4, 8, 16 or 32 "
              "(keys/values, such as 8/4)"},
        Wrong{"4/",
              "'4/', column 3, at the end: bits are 2, 3, 4, 8, 16 or 32 (keys/values, such "
              "as 8/4)"},
        Wrong{"4/2/8",
              "'4/2/8', column 3, at '2/8': bits are 2, 3, 4, 8, 16 or 32 (keys/values, "
              "such as 8/4)"},
        Wrong{"q8_0",
              "'q8_0', column 1, at 'q8_0': bits are 2, 3, 4, 8, 16 or 32 (keys/values, "
              "such as 8/4); write 8"},
        Wrong{"0=16,*=K8V4",
              "'0=16,*=K8V4', column 8, at 'K8V4': bits are 2, 3, 4, 8, 16 or 32 "
              "(keys/values, such as 8/4); write 8/4"},
        Wrong{"kivi",
              "'kivi', column 1, at 'kivi': bits are 2, 3, 4, 8, 16 or 32 (keys/values, "
              "such as 8/4); write kivi-4"},
        Wrong{"-4",
              "'-4', column 1, at '-4': bits are 2, 3, 4, 8, 16 or 32 (keys/values, such as "
              "8/4)"},
        Wrong{"99999999999",
              "'99999999999', column 1, at '99999999999': bits are 2, 3, 4, 8, 16 "
              "or 32 (keys/values, such as 8/4)"},
        Wrong{"4+i@",
              "'4+i@', column 2, at '+i@': +i@FILE comes last, such as +i@prefix.safetensors: the "
              "prefix's keys and values"},
        Wrong{"4+@p",
              "'4+@p', column 2, at '+@p': only +iN may follow, once and last: the first N "
              "tokens stay exact"},
        Wrong{"4:x",
              "'4:x', column 3, at 'x': options are gN or ghead (group), rN (window), "
              "block; keys and values of different bits are written 8/4"},
        Wrong{"8:4",
              "'8:4', column 3, at '4': options are gN or ghead (group), rN (window), "
              "block; keys and values of different bits are written 8/4"},
        Wrong{"4:",
              "'4:', column 3, at the end: options are gN or ghead (group), rN (window), "
              "block; keys and values of different bits are written 8/4"},
        Wrong{"4::g64",
              "'4::g64', column 3, at ':g64': options are gN or ghead (group), rN "
              "(window), block; keys and values of different bits are written 8/4"},
        Wrong{"4:g32/", "'4:g32/', column 3, at 'g32/': a group is gN, N from 1 to 1024, or ghead"},
        Wrong{"4/16:g32/64",
              "'4/16:g32/64', column 1, at '4/16:g32/64': two groups, of keys and of values, where "
              "one of them is not packed"},
        Wrong{"4:g", "'4:g', column 3, at 'g': a group is gN, N from 1 to 1024, or ghead"},
        Wrong{"4:g0", "'4:g0', column 3, at 'g0': a group is gN, N from 1 to 1024, or ghead"},
        Wrong{"4:g32:g64", "'4:g32:g64', column 7, at 'g64': the group is given twice"},
        Wrong{"4:r",
              "'4:r', column 3, at 'r': a window is rN, N from 0 to 65536: the newest N "
              "tokens stay exact"},
        Wrong{"4:r65537",
              "'4:r65537', column 3, at 'r65537': a window is rN, N from 0 to 65536: "
              "the newest N tokens stay exact"},
        Wrong{"4:r1:r2", "'4:r1:r2', column 6, at 'r2': the window is given twice"},
        Wrong{"4:r1:block:block", "'4:r1:block:block', column 12, at 'block': given twice"},
        Wrong{"16:g64",
              "'16:g64', column 1, at '16:g64': 16 and 32 bits are stored as they are: "
              "they take no kivi- and no options"},
        Wrong{"kivi-16",
              "'kivi-16', column 1, at 'kivi-16': 16 and 32 bits are stored as they "
              "are: they take no kivi- and no options"},
        Wrong{"kivi-4:ghead",
              "'kivi-4:ghead', column 1, at 'kivi-4:ghead': kivi keys are grouped "
              "by tokens: g32, g64 or g128, not ghead"},
        Wrong{"kivi-4/16:block",
              "'kivi-4/16:block', column 1, at 'kivi-4/16:block': block: kivi "
              "keys are packed in blocks already, and nothing else is packed"},
        Wrong{"4:block",
              "'4:block', column 1, at '4:block': block: needs a window to pack whole, "
              "such as :r32:block"},
        Wrong{"4,8",
              "'4,8', column 2, at ',8': several parts need their layers, such as "
              "0-1=16,*=4: layers=recipe,..."},
        Wrong{"0=4,8",
              "'0=4,8', column 5, at '8': layers are missing: each part is "
              "layers=recipe, such as 0-1=16 or *=4"},
        Wrong{"0=4,",
              "'0=4,', column 5, at the end: layers are missing: each part is "
              "layers=recipe, such as 0-1=16 or *=4"},
        Wrong{"3-1=4",
              "'3-1=4', column 1, at '3-1': layers are N, N-M or * (the rest), counted "
              "from 0 to 1023"},
        Wrong{"0-1024=4",
              "'0-1024=4', column 1, at '0-1024': layers are N, N-M or * (the rest), "
              "counted from 0 to 1023"},
        Wrong{"=4",
              "'=4', column 1, at '=4': layers are N, N-M or * (the rest), counted from 0 "
              "to 1023"},
        Wrong{"4+1",
              "'4+1', column 2, at '+1': only +iN may follow, once and last: the first N "
              "tokens stay exact"},
        Wrong{"4+i",
              "'4+i', column 2, at '+i': +iN comes once and last, N from 0 to 65536: the "
              "first N tokens stay exact"},
        Wrong{"4+i1+i2",
              "'4+i1+i2', column 2, at '+i1+i2': +iN comes once and last, N from 0 to "
              "65536: the first N tokens stay exact"},
        Wrong{"0=4+i1,*=8",
              "'0=4+i1,*=8', column 4, at '+i1,*=8': +iN comes once and last, N "
              "from 0 to 65536: the first N tokens stay exact"},
        Wrong{"4\n:r1\x01",
              "'4?:r1?', column 1, at '4?': bits are 2, 3, 4, 8, 16 or 32 "
              "(keys/values, such as 8/4)"}));

TEST(ShortForm, LongTextIsCutInTheMessage) {
  const std::string text(5000, 'x');
  const std::string message = complaint([&] { parse_recipe(text); });
  EXPECT_LT(message.size(), 300u);
  EXPECT_NE(message.find("xxx...'"), std::string::npos) << message;
}

TEST(ShortForm, JsonTextIsARecipeToo) {
  KvRecipe recipe = parse_recipe("kivi-2");
  recipe.prefill = PrefillMode::kExact;  // the grammar has no word for it
  const std::string text = recipe_to_string(recipe);
  EXPECT_EQ(text.front(), '{');
  EXPECT_EQ(parse_recipe(text), recipe);
}

TEST(ShortForm, WhatTheGrammarCannotSay) {
  const auto cannot_say = [](auto change) {
    KvRecipe recipe = parse_recipe("kivi-4/2");
    change(recipe);
    return !short_form(recipe).has_value();
  };
  EXPECT_FALSE(cannot_say([](KvRecipe&) {}));
  EXPECT_FALSE(cannot_say([](KvRecipe& r) { r.name = "mine"; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.rules.clear(); }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.protect = 1; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.score_correction = true; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.calibration.emplace(); }));
  for (const char* file : {"p.json", "p.yaml", "p.yml", "a.json@b", "tab\t"}) {
    EXPECT_TRUE(cannot_say([&](KvRecipe& r) { r.calibration = {file, ""}; })) << file;
  }
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.calibration = {"p", std::string(64, 'a')}; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) {
    r.calibration = {"p", ""};
    r.intact_prefix = 1;
  }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.intact_prefix = -1; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.rules[0].layer.residual_length = -1; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.rules[0].layer.k.bits = 5; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.rules[0].layer.v.axis = QuantAxis::kPerChannel; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.rules[0].layer.v.quantizer = Quantizer::kLog; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.rules[0].layer.heads[0] = {}; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) { r.rules[0].layer.key_rope = KeyRope::kBefore; }));
  EXPECT_TRUE(cannot_say([](KvRecipe& r) {
    r.rules[0].rest = false;
    r.rules[0].last = kMaxLayers;
  }));
}

TEST(ShortForm, RandomRecipesComeBack) {
  RandomRecipe random(1);
  int short_ones = 0;
  constexpr int kRecipes = 20000;
  for (int i = 0; i < kRecipes; ++i) {
    const KvRecipe recipe = random.recipe();
    const std::string text = recipe_to_string(recipe);
    ASSERT_EQ(parse_recipe(text), recipe) << text;
    // Printing is a fixed point: what was parsed prints as the same text.
    ASSERT_EQ(recipe_to_string(parse_recipe(text)), text);
    short_ones += text.front() != '{';
  }
  // Both forms are really exercised.
  EXPECT_GT(short_ones, kRecipes / 20);
  EXPECT_LT(short_ones, kRecipes - kRecipes / 20);
}

}  // namespace
}  // namespace lowkey
