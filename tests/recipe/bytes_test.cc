#include "recipe/bytes.h"

#include <gtest/gtest.h>

#include <numeric>

#include "core/rng.h"
#include "recipe/errors.h"

namespace lowkey {
namespace {

// KIVI's windows as its code runs them, one token at a time (facts of the authors' release): the
// newest keys collect in a buffer that is packed whole when it holds R; a value leaves its buffer
// when there are more than R of them.
struct Simulated {
  int64_t packed = 0;
  int64_t exact = 0;
  int64_t most_exact = 0;  // between two appends

  void append(SideWindow window, int64_t residual_length) {
    ++exact;
    switch (window) {
      case SideWindow::kNone: pack(exact); break;
      case SideWindow::kSliding:
        if (exact > residual_length) pack(1);
        break;
      case SideWindow::kBlock:
        if (exact == residual_length) pack(exact);
        break;
    }
    most_exact = std::max(most_exact, exact);
  }
  void pack(int64_t tokens) {
    packed += tokens;
    exact -= tokens;
  }
};

TEST(Windows, ClosedFormIsTheSimulation) {
  for (const int64_t residual : {0, 1, 2, 5, 32, 37, 64, 128}) {
    for (const SideWindow window : {SideWindow::kNone, SideWindow::kSliding, SideWindow::kBlock}) {
      if (window == SideWindow::kBlock && residual == 0) continue;
      Simulated simulated;
      for (int64_t tokens = 0; tokens <= 3 * residual + 5; ++tokens) {
        ASSERT_EQ(stored_tokens(window, residual, tokens), simulated.packed)
            << "R " << residual << ", L " << tokens;
        simulated.append(window, residual);
      }
      EXPECT_EQ(window_capacity(window, residual), simulated.most_exact) << residual;
    }
  }
}

TEST(Windows, PaperExamples) {
  EXPECT_EQ(stored_tokens(SideWindow::kBlock, 128, 128), 128);
  EXPECT_EQ(stored_tokens(SideWindow::kSliding, 128, 128), 0);
  EXPECT_EQ(stored_tokens(SideWindow::kBlock, 128, 300), 256);
  EXPECT_EQ(stored_tokens(SideWindow::kSliding, 128, 300), 172);
}

TEST(Windows, SidesFollowTheirAxisAndTheLayersRule) {
  const SideRecipe token{.bits = 4};
  const SideRecipe channel{.bits = 4, .axis = QuantAxis::kPerChannel, .group_size = 32};
  const SideRecipe plain{.bits = 16, .axis = QuantAxis::kPerChannel};
  EXPECT_EQ(side_window(token, WindowRule::kKivi), SideWindow::kSliding);
  EXPECT_EQ(side_window(token, WindowRule::kBlock), SideWindow::kBlock);
  EXPECT_EQ(side_window(channel, WindowRule::kKivi), SideWindow::kBlock);
  EXPECT_EQ(side_window(channel, WindowRule::kBlock), SideWindow::kBlock);
  EXPECT_EQ(side_window(plain, WindowRule::kBlock), SideWindow::kNone);
}

struct PageSide {
  SideRecipe side;
  int32_t head_dim;
  int64_t params, codes, total;
};

// By hand: parameters are 4 bytes a group, codes 16 bytes per channel and bit.
TEST(PageBytes, HandComputed) {
  const auto channel = [](int32_t bits, int32_t group) {
    return SideRecipe{.bits = bits, .axis = QuantAxis::kPerChannel, .group_size = group};
  };
  const auto token = [](int32_t bits, int32_t group) {
    return SideRecipe{.bits = bits, .axis = QuantAxis::kPerToken, .group_size = group};
  };
  const PageSide sides[] = {
      {channel(2, 32), 64, 1024, 2048, 3072},
      {channel(2, 128), 64, 256, 2048, 2304},
      {token(2, 32), 64, 1024, 2048, 3072},
      {token(4, 64), 64, 512, 4096, 4608},
      {token(4, 0), 64, 512, 4096, 4608},
      {token(8, 0), 128, 512, 16384, 16896},
      {channel(4, 64), 128, 1024, 8192, 9216},
      {token(3, 16), 16, 512, 768, 1280},
      {channel(3, 128), 16, 64, 768, 832},
      {token(3, 80), 80, 512, 3840, 4352},
      {SideRecipe{.bits = 16}, 64, 0, 16384, 16384},
      {SideRecipe{.bits = 32}, 64, 0, 32768, 32768},
      {SideRecipe{.bits = 16}, 7, 0, 1792, 1792},
  };
  for (const PageSide& expected : sides) {
    EXPECT_EQ(side_params_bytes(expected.side, expected.head_dim), expected.params);
    EXPECT_EQ(side_codes_bytes(expected.side, expected.head_dim), expected.codes);
    EXPECT_EQ(side_page_bytes(expected.side, expected.head_dim), expected.total);
  }
}

// facts/performance.md §4: groups of 32, head_dim 128.
TEST(PageBytes, PublishedPageSizes) {
  const int64_t kib[][2] = {{2, 12}, {3, 16}, {4, 20}, {8, 36}};
  for (const auto& [bits, size] : kib) {
    const HeadRecipe head{
        .k = {.bits = static_cast<int32_t>(bits), .axis = QuantAxis::kPerChannel, .group_size = 32},
        .v = {.bits = static_cast<int32_t>(bits), .axis = QuantAxis::kPerToken, .group_size = 32}};
    EXPECT_EQ(page_bytes(head, 128), size * 1024) << bits;
  }
}

TEST(PageBytes, SidesAreAlwaysAligned) {
  for (int32_t head_dim = 16; head_dim <= 256; head_dim += 16) {
    for (const int32_t bits : {2, 3, 4, 8}) {
      for (const int32_t group : {32, 64, 128}) {
        const SideRecipe side{.bits = bits, .axis = QuantAxis::kPerChannel, .group_size = group};
        EXPECT_EQ(side_page_bytes(side, head_dim) % kPageAlignment, 0);
        // Nothing is wasted: parameters and codes fill their share exactly.
        EXPECT_EQ(side_page_bytes(side, head_dim),
                  side_params_bytes(side, head_dim) + side_codes_bytes(side, head_dim));
      }
    }
  }
}

const KvShape kSmol{.num_layers = 30, .num_kv_heads = 3, .head_dim = 64};

KvBytes smol_bytes(const char* text, int64_t tokens) {
  return bytes_at(resolve_recipe(parse_recipe(text), kSmol), tokens);
}

TEST(BytesAt, HandComputed) {
  constexpr int64_t kHeads = 30 * 3;
  // 16 bits: 1000 tokens fill 8 pages of 128 tokens x 64 channels x 2 bytes x 2 sides.
  EXPECT_EQ(smol_bytes("16", 1000).pages, kHeads * 8 * 32768);
  EXPECT_EQ(smol_bytes("16", 1000).windows, 0);
  // KIVI-2, R = 128: windows hold 127 keys and 128 values in f16 from the start.
  for (const int64_t tokens : {0, 1, 1000}) {
    EXPECT_EQ(smol_bytes("kivi-2", tokens).windows, kHeads * (127 + 128) * 64 * 2);
  }
  // L = 1000: 896 keys and 872 values are packed: 7 pages of 3072 + 3072 bytes.
  EXPECT_EQ(smol_bytes("kivi-2", 1000).pages, kHeads * 7 * 6144);
  // Keys fill a page before values do.
  EXPECT_EQ(smol_bytes("kivi-2", 127).pages, 0);
  EXPECT_EQ(smol_bytes("kivi-2", 128).pages, kHeads * 6144);
  // An unpacked side stores at once what the packed one still holds in its window.
  EXPECT_EQ(smol_bytes("kivi-16/2", 1).pages, kHeads * (16384 + 3072));
  EXPECT_EQ(smol_bytes("kivi-16/2", 1).windows, kHeads * 128 * 64 * 2);
}

TEST(BytesAt, PrefixIsAllocatedWholeAndCountedFirst) {
  constexpr int64_t kHeads = 30 * 3;
  for (const int64_t tokens : {0, 2, 500}) {
    EXPECT_EQ(smol_bytes("4+i4", tokens).prefix, kHeads * 4 * 64 * (2 + 2));
    EXPECT_EQ(smol_bytes("32/4+i4", tokens).prefix, kHeads * 4 * 64 * (4 + 2));
    EXPECT_EQ(smol_bytes("16+i4", tokens).prefix, kHeads * 4 * 64 * (2 + 2));
  }
  EXPECT_EQ(smol_bytes("4+i4", 4).pages, 0);
  EXPECT_EQ(smol_bytes("4+i4", 5).pages, kHeads * 2 * 4608);
  EXPECT_EQ(smol_bytes("4+i4", 132).pages, kHeads * 2 * 4608);
  EXPECT_EQ(smol_bytes("4+i4", 133).pages, kHeads * 2 * 2 * 4608);
}

TEST(BytesAt, HeadsAreCountedEach) {
  KvRecipe recipe = parse_recipe("16");
  recipe.rules[0].layer.heads[1] = HeadRecipe{SideRecipe{.bits = 4}, SideRecipe{.bits = 4}};
  const KvShape shape{.num_layers = 1, .num_kv_heads = 2, .head_dim = 64};
  const ResolvedRecipe resolved = resolve_recipe(recipe, shape);
  EXPECT_EQ(bytes_at(resolved, 1).pages, 32768 + 2 * 4608);
  EXPECT_EQ(code_bits(resolved), 10.0);
}

// Pages hold what the windows let through, no more than one page of slack per head.
TEST(BytesAt, AgreesWithSimulatedTokens) {
  for (const char* text : {"kivi-4/2:r32", "kivi-4/2:r32:block", "8/3:r5+i3", "16/4:r7", "2"}) {
    const ResolvedRecipe recipe =
        resolve_recipe(parse_recipe(text), {.num_layers = 1, .num_kv_heads = 1, .head_dim = 64});
    const ResolvedLayer& layer = recipe.layers[0];
    const HeadRecipe& head = layer.heads[0];
    Simulated k, v;
    for (int64_t tokens = 0; tokens < 1000; ++tokens) {
      const int64_t stored = std::max(k.packed, v.packed);
      ASSERT_EQ(bytes_at(recipe, tokens).pages, (stored + 127) / 128 * page_bytes(head, 64))
          << text << " at " << tokens;
      if (tokens < recipe.intact_prefix) continue;
      k.append(side_window(head.k, layer.window), layer.residual_length);
      v.append(side_window(head.v, layer.window), layer.residual_length);
    }
  }
}

// A layer of window W, token by token: a page is there from the first token stored in it until the
// next query, and with it every later one, sees none of its 128 positions.
TEST(BytesAt, WindowsGiveUpPagesAsSimulated) {
  for (const char* text :
       {"16", "4", "kivi-4/2:r32", "kivi-4/2:r32:block", "8/3:r5+i3", "16/4:r200", "2+i150"}) {
    for (const int32_t window : {1, 2, 31, 100, 128, 129, 130, 300, 2000}) {
      const ResolvedRecipe recipe = resolve_recipe(
          parse_recipe(text),
          {.num_layers = 2, .num_kv_heads = 1, .head_dim = 64, .windows = {0, window}});
      const ResolvedLayer& layer = recipe.layers[1];
      const HeadRecipe& head = layer.heads[0];
      Simulated k, v;
      for (int64_t tokens = 0; tokens < 1000; ++tokens) {
        int64_t held = 0;
        const int64_t stored = std::max(k.packed, v.packed);
        for (int64_t page = 0; page * 128 < stored; ++page) {
          const int64_t last_position = recipe.intact_prefix + page * 128 + 127;
          held += last_position > tokens - window ? 1 : 0;
        }
        const int64_t all = (stored + 127) / 128;
        ASSERT_EQ(bytes_at(recipe, tokens).pages, (all + held) * page_bytes(head, 64))
            << text << ", window " << window << " at " << tokens;
        if (tokens < recipe.intact_prefix) continue;
        k.append(side_window(head.k, layer.window), layer.residual_length);
        v.append(side_window(head.v, layer.window), layer.residual_length);
      }
    }
  }
}

TEST(BytesAt, PagesHeldByHand) {
  EXPECT_EQ(pages_held(0, 0, 1000, 1000), (PageSpan{0, 8}));
  // The query at 1000 sees position 901 and on: page 7 is the first with any of it.
  EXPECT_EQ(pages_held(100, 0, 1000, 1000), (PageSpan{7, 8}));
  EXPECT_EQ(pages_held(106, 0, 1000, 1000), (PageSpan{6, 8}));
  EXPECT_EQ(pages_held(105, 0, 1000, 1000), (PageSpan{7, 8}));
  EXPECT_EQ(pages_held(105, 1, 1000, 999), (PageSpan{6, 8}));
  // Nothing stored is seen: an empty span, after what was.
  EXPECT_EQ(pages_held(1, 0, 1024, 1024), (PageSpan{8, 8}));
  EXPECT_EQ(pages_held(10, 0, 1000, 700), (PageSpan{7, 7}));
}

TEST(BytesAt, LargestCacheFitsIn63Bits) {
  const KvShape shape{
      .num_layers = kMaxLayers, .num_kv_heads = kMaxKvHeads, .head_dim = kMaxHeadDim};
  const KvBytes f32 = bytes_at(resolve_recipe(parse_recipe("32+i65536"), shape), kMaxTokens);
  const int64_t tokens = kMaxTokens + 65536 - 65536;
  // 2^20 heads x 2 sides x 4 bytes x 2^10 channels.
  EXPECT_EQ(f32.total(), (int64_t{1} << 33) * tokens);
  const KvBytes packed =
      bytes_at(resolve_recipe(parse_recipe("8:g16:r65536+i65536"), shape), kMaxTokens);
  EXPECT_GT(packed.total(), int64_t{1} << 58);
}

TEST(BytesAt, RefusesContextsBeyondTheBound) {
  const ResolvedRecipe recipe = resolve_recipe(parse_recipe("4"), kSmol);
  EXPECT_EQ(complaint([&] { bytes_at(recipe, kMaxTokens + 1); }),
            "invalid_argument: 268435457 tokens: a context has 0 to 268435456");
  EXPECT_EQ(complaint([&] { bytes_at(recipe, -1); }),
            "invalid_argument: -1 tokens: a context has 0 to 268435456");
  EXPECT_EQ(complaint([&] { stored_bits(recipe, 0); }),
            "invalid_argument: stored bits at 0 tokens: needs at least one");
}

TEST(Bits, CodeBitsAreTheMeanOverLayersAndSides) {
  EXPECT_EQ(code_bits(resolve_recipe(parse_recipe("8/4"), kSmol)), 6.0);
  EXPECT_EQ(code_bits(resolve_recipe(parse_recipe("0-14=4,*=kivi-2"), kSmol)), 3.0);
  EXPECT_EQ(code_bits(resolve_recipe(parse_recipe("16"), kSmol)), 16.0);
  KvShape windowed = kSmol;
  windowed.windows.assign(30, 100);
  EXPECT_EQ(code_bits(resolve_recipe(parse_recipe("8/4"), windowed)), 6.0);
}

// DESIGN §2: groups of 32 add one bit; whole pages, no window.
TEST(Bits, StoredBitsOfFullPages) {
  const auto at = [](const char* text, int64_t tokens) {
    return stored_bits(resolve_recipe(parse_recipe(text), kSmol), tokens);
  };
  EXPECT_DOUBLE_EQ(at("16", 128), 16.0);
  EXPECT_DOUBLE_EQ(at("32", 1280), 32.0);
  EXPECT_DOUBLE_EQ(at("4:g32", 1024), 5.0);
  EXPECT_DOUBLE_EQ(at("4", 1024), 4.5);
  EXPECT_DOUBLE_EQ(at("2:g32", 128), 3.0);
  // Layers that see 128 tokens and 300 in turn: after 1030 they hold two pages (7 and 8) and four.
  KvShape windowed = kSmol;
  for (int32_t l = 0; l < 30; ++l) windowed.windows.push_back(l % 2 == 0 ? 128 : 300);
  EXPECT_DOUBLE_EQ(stored_bits(resolve_recipe(parse_recipe("16"), windowed), 1030),
                   16.0 * (2 + 4) * 128 / (128 + 300));
  // Shorter than the windows, they do not matter.
  EXPECT_DOUBLE_EQ(stored_bits(resolve_recipe(parse_recipe("16"), windowed), 100), 16.0 * 1.28);
  // One token occupies a page.
  EXPECT_DOUBLE_EQ(at("16", 1), 16.0 * 128);
  // 1024 tokens of KIVI-2: 8 pages at 3 bits, 127 + 128 exact tokens at 16 over two sides.
  EXPECT_DOUBLE_EQ(at("kivi-2", 1024), 3.0 + 16.0 * (127 + 128) / 2 / 1024);
}

}  // namespace
}  // namespace lowkey
