#include "linear/gemm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "linear/random_weights.h"
#include "support/allocations.h"

namespace lowkey {
namespace {

using test::random_floats;
using test::RandomTensor;
using test::uniform;

struct Shape {
  int64_t rows, out, in;
};

// Around every boundary: rows in sixes and blocks of 64, features in vectors, halves and panels,
// inputs in pairs.
constexpr Shape kShapes[] = {{1, 64, 64},   {2, 1, 1},    {5, 17, 3},    {6, 33, 32},
                             {7, 64, 77},   {9, 65, 2},   {11, 96, 31},  {64, 192, 576},
                             {65, 100, 40}, {130, 31, 9}, {200, 128, 64}};

std::vector<float> rounded(std::vector<float> x) {
  for (float& value : x) value = bfloat16_to_float(float_to_bfloat16(value));
  return x;
}

struct Input {
  Input(const Shape& shape, uint64_t seed) {
    SplitMix64 rng(seed);
    floats = random_floats(rng, shape.rows * shape.in);
    const int64_t stride = shape.in + shape.in % 2 + 2;
    data.assign(static_cast<size_t>(shape.rows * stride), BFloat16{0x7fc0});  // all overwritten
    round_to_bf16(floats.data(), shape.rows, shape.in, data.data(), stride);
    rows = {data.data(), shape.rows, stride};
  }
  std::vector<float> floats;
  std::vector<BFloat16> data;
  Bf16Rows rows;
};

struct Weight {
  Weight(const Shape& shape, uint64_t seed, ThreadPool& pool, DType dtype = DType::kF32)
      : tensor(dtype, shape.out, shape.in, seed),
        matrix(make_weight(tensor.view, WeightStorage::kFile, pool)),
        packed(matrix, pool) {
    SplitMix64 rng(seed + 1);
    bias = random_floats(rng, shape.out);
  }
  RandomTensor tensor;
  WeightMatrix matrix;
  PackedMatrix packed;
  std::vector<float> bias;
};

struct Product {
  double value, magnitude;  // sum of the terms, and of their absolute values
};

Product product(const Weight& w, const Input& x, const Shape& shape, int64_t row, int64_t out) {
  const std::vector<float> weights = rounded(w.tensor.row(out));
  Product p{w.bias[static_cast<size_t>(out)], std::abs(w.bias[static_cast<size_t>(out)])};
  for (int64_t c = 0; c < shape.in; ++c) {
    const float value = x.floats[static_cast<size_t>(row * shape.in + c)];
    const double term = static_cast<double>(weights[static_cast<size_t>(c)]) *
                        bfloat16_to_float(float_to_bfloat16(value));
    p.value += term;
    p.magnitude += std::abs(term);
  }
  return p;
}

// Inputs are the same rounded numbers on both sides, products of bf16 are exact in f32: what is
// left is one rounding per addition, two additions per pair (vdpbf16ps), and one for y += .
double float_bound(const Shape& shape, double magnitude) {
  return 1.01 * 0x1p-24 * static_cast<double>(shape.in + 4) * magnitude + 1e-30;
}

class Gemm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!gemm_available()) GTEST_SKIP() << "no AVX512_BF16 here";
  }
};

// Packed before or packed on the way: the same numbers in the same order.
TEST_F(Gemm, StreamedMatricesGiveTheSameBits) {
  ThreadPool pool(3);
  GemmScratch scratch;  // shared by matrices of all sizes
  for (const Shape& shape : kShapes) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_1}) {
      if (shape.in % dtype_block_elements(dtype) != 0) continue;
      SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.out << " x " << shape.in
                                      << " " << dtype_name(dtype));
      const Input x(shape, 1);
      const Shape narrow{shape.rows, shape.out / 2 + 1, shape.in};
      const Weight a(shape, 2, pool, dtype), b(narrow, 3, pool, dtype);
      std::vector<float> ya(static_cast<size_t>(shape.rows * shape.out), 0.25f);
      std::vector<float> yb(static_cast<size_t>(shape.rows * narrow.out), 0.5f);
      std::vector<float> za = ya, zb = yb;
      const GemmOutput packed[] = {{&a.packed, a.bias.data(), ya.data()},
                                   {&b.packed, nullptr, yb.data()}};
      const StreamedOutput streamed[] = {{&a.matrix, a.bias.data(), za.data()},
                                         {&b.matrix, nullptr, zb.data()}};
      for (GemmStore store : {GemmStore::kReplace, GemmStore::kAdd}) {
        gemm(x.rows, packed, store, pool);
        gemm_streamed(x.rows, streamed, store, scratch, pool);
        EXPECT_EQ(za, ya);
        EXPECT_EQ(zb, yb);
      }
    }
  }
}

TEST_F(Gemm, EqualsTheDoubleProductOfRoundedNumbers) {
  ThreadPool pool(3);
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.out << " x " << shape.in);
    const Input x(shape, 1);
    const Shape narrow{shape.rows, shape.out / 2 + 1, shape.in};
    const Weight a(shape, 2, pool), b(narrow, 3, pool);
    std::vector<float> ya(static_cast<size_t>(shape.rows * shape.out), NAN);
    std::vector<float> yb(static_cast<size_t>(shape.rows * narrow.out), 0.5f);
    const GemmOutput outputs[] = {{&a.packed, a.bias.data(), ya.data()},
                                  {&b.packed, b.bias.data(), yb.data()}};
    gemm(x.rows, {outputs, 1}, GemmStore::kReplace, pool);
    gemm(x.rows, {outputs + 1, 1}, GemmStore::kAdd, pool);
    for (int64_t r = 0; r < shape.rows; ++r) {
      for (int64_t o = 0; o < shape.out; ++o) {
        const Product p = product(a, x, shape, r, o);
        ASSERT_NEAR(ya[static_cast<size_t>(r * shape.out + o)], p.value,
                    float_bound(shape, p.magnitude));
      }
      for (int64_t o = 0; o < narrow.out; ++o) {
        const Product p = product(b, x, narrow, r, o);
        ASSERT_NEAR(yb[static_cast<size_t>(r * narrow.out + o)], p.value + 0.5,
                    float_bound(shape, p.magnitude + 0.5));
      }
    }
    // Together they are what they are alone.
    std::vector<float> again(ya.size()), again_b(yb.size());
    const GemmOutput both[] = {{&a.packed, a.bias.data(), again.data()},
                               {&b.packed, b.bias.data(), again_b.data()}};
    gemm(x.rows, both, GemmStore::kReplace, pool);
    EXPECT_EQ(again, ya);
  }
}

TEST_F(Gemm, GatesInRegisters) {
  ThreadPool pool(2);
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.out << " x " << shape.in);
    const Input x(shape, 4);
    const Weight gate(shape, 5, pool), up(shape, 6, pool);
    const int64_t stride = shape.out + 3;
    std::vector<BFloat16> y(static_cast<size_t>(shape.rows * stride), BFloat16{0x1234});
    gated_gemm(x.rows,
               {&gate.packed, &up.packed, gate.bias.data(), up.bias.data(), y.data(), stride},
               pool);
    for (int64_t r = 0; r < shape.rows; ++r) {
      for (int64_t o = 0; o < shape.out; ++o) {
        const Product g = product(gate, x, shape, r, o), u = product(up, x, shape, r, o);
        const double silu = g.value / (1 + std::exp(-g.value));
        const double expected = silu * u.value;
        // The products' own errors (silu's slope is at most 1.1), 1e-6 of silu, bf16's half unit.
        const double bound = 1.1 * float_bound(shape, g.magnitude) * std::abs(u.value) +
                             std::abs(silu) * float_bound(shape, u.magnitude) +
                             (1e-6 + 0x1p-8) * std::abs(expected) + 1e-30;
        ASSERT_NEAR(bfloat16_to_float(y[static_cast<size_t>(r * stride + o)]), expected, bound);
      }
      for (int64_t o = shape.out; o < stride; ++o) {
        ASSERT_EQ(y[static_cast<size_t>(r * stride + o)].bits, 0x1234) << "written beyond the row";
      }
    }
  }
}

// Gates far out: silu tends to x or to 0, and never to NaN; a NaN stays one.
TEST_F(Gemm, GatesOfAnySizeAreDefined) {
  ThreadPool pool(1);
  const Shape shape{1, 8, 1};
  Weight gate(shape, 7, pool), up(shape, 8, pool);
  const float gates[] = {-1e30f, -1000.0f, -88.0f, -1e-3f, 0.0f, 30.0f, 1e30f, NAN};
  const BFloat16 zero{};
  const std::vector<BFloat16> x(2, zero);
  std::vector<float> ones(8, 1.0f);
  std::vector<BFloat16> y(8);
  gated_gemm({x.data(), 1, 2}, {&gate.packed, &up.packed, gates, ones.data(), y.data(), 8}, pool);
  for (size_t i = 0; i < 7; ++i) {
    const double expected = gates[i] / (1 + std::exp(-static_cast<double>(gates[i])));
    // exp(-x) is cut off at 2^126, which leaves 1e30 * 2^-126 of the first.
    EXPECT_NEAR(bfloat16_to_float(y[i]), expected, 0x1p-8 * std::abs(expected) + 2e-8) << gates[i];
  }
  EXPECT_TRUE(std::isnan(bfloat16_to_float(y[7])));
}

// A row has the bits it would have alone, whoever computes it.
TEST_F(Gemm, RowsAndThreadsDoNotShow) {
  const Shape shape{131, 70, 96};
  std::vector<float> first;
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    const Input x(shape, 9);
    const Weight w(shape, 10, pool);
    std::vector<float> all(static_cast<size_t>(shape.rows * shape.out));
    const GemmOutput output{&w.packed, nullptr, all.data()};
    gemm(x.rows, {&output, 1}, GemmStore::kReplace, pool);
    for (int64_t r : {0, 1, 63, 64, 66, 130}) {
      std::vector<float> alone(static_cast<size_t>(shape.out));
      const GemmOutput one{&w.packed, nullptr, alone.data()};
      gemm({x.rows.data + r * x.rows.stride, 1, x.rows.stride}, {&one, 1}, GemmStore::kReplace,
           pool);
      EXPECT_EQ(alone,
                std::vector<float>(all.begin() + r * shape.out, all.begin() + (r + 1) * shape.out));
    }
    if (first.empty()) first = all;
    EXPECT_EQ(all, first) << threads << " threads";
  }
}

TEST_F(Gemm, RoundsAsTheScalarConversion) {
  ThreadPool pool(2);
  SplitMix64 rng(11);
  std::vector<float> x;
  for (int i = 0; i < 1000; ++i) {
    const auto bits = static_cast<uint32_t>(rng.next());
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    // Infinities and NaN are finite inputs' business elsewhere; subnormals become zero.
    x.push_back(std::isfinite(value) ? value : 1.0f);
  }
  std::vector<BFloat16> out(x.size());
  round_to_bf16(x.data(), 100, 10, out.data(), 10);
  for (size_t i = 0; i < x.size(); ++i) {
    const float flushed = std::abs(x[i]) < 0x1p-126f ? std::copysign(0.0f, x[i]) : x[i];
    ASSERT_EQ(out[i], float_to_bfloat16(flushed)) << x[i];
  }
}

TEST_F(Gemm, PacksEveryFormatOfWeights) {
  ThreadPool pool(2);
  for (DType dtype : test::all_dtypes()) {
    const Shape shape{3, 70, 2 * std::max<int64_t>(1, dtype_block_elements(dtype))};
    const Weight w(shape, 12, pool, dtype);
    EXPECT_EQ(w.packed.bytes(), 128 * shape.in * 2);
    for (int64_t o = 0; o < 128; ++o) {
      const std::vector<float> row =
          o < shape.out ? w.tensor.row(o) : std::vector<float>(static_cast<size_t>(shape.in));
      for (int64_t c = 0; c < shape.in; ++c) {
        const BFloat16 packed = w.packed.panel(o / 64)[(c / 2 * 64 + o % 64) * 2 + c % 2];
        ASSERT_EQ(packed, float_to_bfloat16(row[static_cast<size_t>(c)]))
            << dtype_name(dtype) << " " << o << ", " << c;
      }
    }
  }
}

TEST_F(Gemm, AllocatesNothing) {
  ThreadPool pool(1);
  const Shape shape{10, 64, 64};
  const Input x(shape, 13);
  const Weight a(shape, 14, pool), b(shape, 15, pool);
  std::vector<float> y(static_cast<size_t>(shape.rows * shape.out));
  std::vector<BFloat16> h(y.size());
  const GemmOutput output{&a.packed, nullptr, y.data()};
  const test::AllocationCount count;
  gemm(x.rows, {&output, 1}, GemmStore::kAdd, pool);
  gated_gemm(x.rows, {&a.packed, &b.packed, nullptr, nullptr, h.data(), shape.out}, pool);
  EXPECT_EQ(count.since(), 0);
}

}  // namespace
}  // namespace lowkey
