#include "load/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/checked.h"
#include "core/error.h"
#include "core/rng.h"
#include "support/cpu_clock.h"
#include "support/gguf_writer.h"
#include "support/memory.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using test::ByteWriter;
using test::GgufType;
using test::GgufWriter;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

GgufFile parse(const std::string& bytes) {
  return GgufFile::parse(as_bytes(bytes), "x.gguf");
}

// "code: message", or "" if the bytes were accepted.
std::string refusal(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    return std::string(error_code_name(error.code())) + ": " + error.what();
  }
  return "";
}

std::string floats(size_t count) {
  ByteWriter out;
  for (size_t i = 0; i < count; ++i) out.put(static_cast<float>(i));
  return out.bytes();
}

// Every metadata type, arrays of them, and three tensors.
GgufWriter good() {
  GgufWriter w;
  w.add("general.architecture", "llama").add("u8", uint8_t{200}).add("i8", int8_t{-100});
  w.add("u16", uint16_t{60000}).add("i16", int16_t{-30000}).add("u32", uint32_t{4000000000});
  w.add("i32", int32_t{-2000000000}).add("f32", 1.5f).add("yes", true).add("no", false);
  w.add("u64", std::numeric_limits<uint64_t>::max()).add("i64", int64_t{-5}).add("f64", 0.1);
  w.add("bytes", std::vector<uint8_t>{1, 255}).add("small", std::vector<int8_t>{-1, 127});
  w.add("floats", std::vector<float>{0.5f, -2.0f}).add("bools", std::vector<bool>{true, false});
  w.add("words", std::vector<std::string>{"a", "", "größer"});
  w.add("nothing", std::vector<int32_t>{});
  w.add_tensor("first", DType::kF32, {3, 5}, floats(15));
  w.add_tensor("second", DType::kQ8_0, {2, 32}, std::string(68, '\x11'));
  w.add_tensor("third", DType::kF16, {7}, std::string(14, '\x22'));
  return w;
}

TEST(Gguf, ReadsEveryMetadataType) {
  for (uint32_t version : {2u, 3u}) {
    GgufWriter w = good();
    w.version = version;
    const std::string bytes = w.bytes();
    const GgufFile file = parse(bytes);
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(file.get_string("general.architecture"), "llama");
    EXPECT_EQ(file.get_int("u8"), 200);
    EXPECT_EQ(file.get_int("i8"), -100);
    EXPECT_EQ(file.get_int("u16"), 60000);
    EXPECT_EQ(file.get_int("i16"), -30000);
    EXPECT_EQ(file.get_int("u32"), 4000000000);
    EXPECT_EQ(file.get_int("i32"), -2000000000);
    EXPECT_EQ(file.get_int("i64"), -5);
    EXPECT_EQ(file.get_float("f32"), 1.5);
    EXPECT_EQ(file.get_float("f64"), 0.1);
    EXPECT_TRUE(file.get_bool("yes", false));
    EXPECT_FALSE(file.get_bool("no", true));
    EXPECT_EQ(std::get<uint64_t>(*file.find("u64")), std::numeric_limits<uint64_t>::max());
    EXPECT_THAT(std::get<std::vector<uint64_t>>(*file.find("bytes")), ElementsAre(1, 255));
    EXPECT_THAT(std::get<std::vector<int64_t>>(*file.find("small")), ElementsAre(-1, 127));
    EXPECT_THAT(std::get<std::vector<double>>(*file.find("floats")), ElementsAre(0.5, -2.0));
    EXPECT_THAT(std::get<std::vector<bool>>(*file.find("bools")), ElementsAre(true, false));
    EXPECT_THAT(file.get_strings("words"), ElementsAre("a", "", "größer"));
    EXPECT_TRUE(std::get<std::vector<int64_t>>(*file.find("nothing")).empty());
    EXPECT_EQ(file.metadata().size(), 19u);
  }
}

TEST(Gguf, TensorsBorrowTheBytes) {
  const std::string bytes = good().bytes();
  const GgufFile file = parse(bytes);
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.data_offset() % 32, 0u);
  const TensorView& first = file.tensors()[0];
  EXPECT_EQ(first.name, "first");
  EXPECT_THAT(first.shape, ElementsAre(3, 5)) << "outermost first";
  EXPECT_EQ(first.data.size(), 60u);
  EXPECT_EQ(reinterpret_cast<const char*>(first.data.data()), bytes.data() + file.data_offset());
  const TensorView* second = file.find_tensor("second");
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->dtype, DType::kQ8_0);
  EXPECT_EQ(second->data.data() - first.data.data(), 64);
  EXPECT_EQ(second->data.size(), 68u);
  EXPECT_EQ(file.find_tensor("fourth"), nullptr);
}

TEST(Gguf, TypedAccessNamesKeyAndKinds) {
  const std::string bytes = good().bytes();
  const GgufFile file = parse(bytes);
  const auto message = [&](auto&& access) -> std::string {
    try {
      access();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptFile);
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message([&] { file.get_int("absent"); }), "x.gguf: metadata key 'absent' is missing");
  EXPECT_EQ(message([&] { file.get_int("f32"); }),
            "x.gguf: metadata key 'f32' is a float, not an integer");
  EXPECT_EQ(message([&] { file.get_int("u64"); }),
            "x.gguf: metadata key 'u64' is 18446744073709551615, out of range");
  EXPECT_EQ(message([&] { file.get_string("words"); }),
            "x.gguf: metadata key 'words' is an array of strings, not a string");
  EXPECT_EQ(message([&] { file.get_float("u8", 1.0); }),
            "x.gguf: metadata key 'u8' is an unsigned integer, not a float")
      << "a fallback is for a missing key only";
  EXPECT_EQ(file.get_int("absent", 7), 7);
  EXPECT_EQ(file.get_float("absent", 0.5), 0.5);
  EXPECT_EQ(file.get_string("absent", "x"), "x");
  EXPECT_TRUE(file.get_bool("absent", true));
}

TEST(Gguf, EmptyAndCustomAlignmentFilesAreFine) {
  EXPECT_EQ(refusal(GgufWriter().bytes()), "");
  for (uint32_t alignment : {1u, 8u, 64u, 4096u}) {
    GgufWriter w = good();
    w.alignment = alignment;
    w.add("general.alignment", alignment);
    const std::string bytes = w.bytes();
    EXPECT_EQ(parse(bytes).alignment(), alignment);
    EXPECT_EQ(parse(bytes).tensors()[0].data.size(), 60u);
  }
}

TEST(Gguf, PaddingAfterTheLastTensorIsOptional) {
  std::string bytes = good().bytes();
  ASSERT_NE(bytes.size() % 32, 0u);
  const size_t end = bytes.size();
  bytes.resize(round_up<size_t>(end, 32));
  EXPECT_EQ(refusal(bytes), "");
  bytes += '\0';
  EXPECT_EQ(refusal(bytes), fmt::format("corrupt_file: x.gguf: at byte {}: 1 bytes follow the last "
                                        "tensor",
                                        bytes.size() - 1));
}

// Each row of the loader checklist: what is done to a good file, and what the refusal must say.
struct BadCase {
  const char* name;
  std::function<std::string()> make;
  const char* message;  // a part of it
};

std::string edited(const std::function<void(GgufWriter&)>& edit) {
  GgufWriter w = good();
  edit(w);
  return w.bytes();
}

GgufWriter::Tensor& first_tensor(GgufWriter& w) {
  return w.tensors.front();
}

const std::vector<BadCase>& bad_cases() {
  const auto max64 = std::numeric_limits<uint64_t>::max();
  static const std::vector<BadCase> cases{
      {"empty", [] { return std::string(); },
       "corrupt_file: x.gguf: at byte 0: the magic needs 4 bytes, but only 0 are left"},
      {"magic", [] { return edited([](auto& w) { w.magic = "FUGG"; }); },
       "corrupt_file: x.gguf: at byte 0: not a GGUF file: it does not begin with \"GGUF\""},
      {"version 0", [] { return edited([](auto& w) { w.version = 0; }); },
       "unsupported: x.gguf: at byte 4: GGUF version 0; versions 2 and 3 are read"},
      {"version 1", [] { return edited([](auto& w) { w.version = 1; }); },
       "unsupported: x.gguf: at byte 4: GGUF version 1;"},
      {"future version", [] { return edited([](auto& w) { w.version = 4; }); },
       "unsupported: x.gguf: at byte 4: GGUF version 4;"},
      {"big-endian", [] { return edited([](auto& w) { w.version = 0x03000000; }); },
       "unsupported: x.gguf: at byte 4: GGUF version 3 in big-endian byte order"},
      {"n_tensors", [=] { return edited([=](auto& w) { w.num_tensors = max64; }); },
       "corrupt_file: x.gguf: at byte 8: 18446744073709551615 tensors cannot fit in"},
      {"n_tensors one too many", [] { return edited([](auto& w) { w.num_tensors = 4; }); },
       "x.gguf: at byte"},
      {"n_kv", [=] { return edited([=](auto& w) { w.num_key_values = max64; }); },
       "corrupt_file: x.gguf: at byte 16: 18446744073709551615 metadata entries cannot fit in"},
      {"key size",
       [=] {
         ByteWriter b;
         b.raw("GGUF").put(3u).put(uint64_t{0}).put(uint64_t{1}).put(max64).raw("some key bytes");
         return b.bytes();
       },
       "corrupt_file: x.gguf: at byte 24: a metadata key is 18446744073709551615 bytes long, more "
       "than 65535"},
      {"key longer than the file",
       [] {
         ByteWriter b;
         b.raw("GGUF")
             .put(3u)
             .put(uint64_t{0})
             .put(uint64_t{1})
             .put(uint64_t{100})
             .raw("0123456789");
         return b.bytes();
       },
       "x.gguf: at byte 24: a metadata key says it is 100 bytes long, but only 10 are left"},
      {"empty key", [] { return edited([](auto& w) { w.add("", 1.0f); }); },
       ": a metadata key is empty"},
      {"key not UTF-8", [] { return edited([](auto& w) { w.add("k\xff", 1.0f); }); },
       ": a metadata key is not printable UTF-8"},
      {"key with a terminal escape",
       [] { return edited([](auto& w) { w.add("k\x1b[2J", 1.0f); }); },
       ": a metadata key is not printable UTF-8"},
      {"string not UTF-8", [] { return edited([](auto& w) { w.add("k", "\xc0\x80"); }); },
       ": 'k' is not valid UTF-8"},
      {"kv type",
       [] {
         return edited([](auto& w) { w.add_raw("k", static_cast<GgufType>(13), "\1\2\3\4"); });
       },
       ": a metadata type is 13, which no GGUF version defines"},
      {"array element type",
       [] {
         return edited([](auto& w) {
           w.add_raw("k", GgufType::kArray, ByteWriter().put(99u).put(uint64_t{1}).bytes());
         });
       },
       ": an array's element type is 99, which no GGUF version defines"},
      {"nested array",
       [] {
         return edited([](auto& w) {
           w.add_raw("k", GgufType::kArray, ByteWriter().put(9u).put(uint64_t{1}).bytes());
         });
       },
       ": 'k' is an array of arrays"},
      {"array count",
       [] {
         return edited([](auto& w) {
           w.add_raw("k", GgufType::kArray, ByteWriter().put(4u).put(uint64_t{1} << 62).bytes());
         });
       },
       ": 'k' says it has 4611686018427387904 elements, but only"},
      {"array of strings count",
       [] {
         return edited([](auto& w) {
           w.add_raw("k", GgufType::kArray, ByteWriter().put(8u).put(uint64_t{1} << 61).bytes());
         });
       },
       ": 'k' says it has 2305843009213693952 elements, but only"},
      {"string length",
       [=] {
         return edited(
             [=](auto& w) { w.add_raw("k", GgufType::kString, ByteWriter().put(max64).bytes()); });
       },
       ": a string says it is 18446744073709551615 bytes long, but only"},
      {"string in an array",
       [=] {
         return edited([=](auto& w) {
           w.add_raw("k", GgufType::kArray,
                     ByteWriter().put(8u).put(uint64_t{1}).put(max64 - 7).bytes());
         });
       },
       ": a string of an array says it is 18446744073709551608 bytes long, but only"},
      {"bool", [] { return edited([](auto& w) { w.add_raw("k", GgufType::kBool, "\2"); }); },
       ": 'k' is a bool with value 2"},
      {"duplicate key", [] { return edited([](auto& w) { w.add("f32", 1.0f); }); },
       ": metadata key 'f32' appears twice"},
      {"alignment not a power of two",
       [] { return edited([](auto& w) { w.add("general.alignment", 13u); }); },
       ": general.alignment is 13, not a power of two"},
      {"alignment 0", [] { return edited([](auto& w) { w.add("general.alignment", 0u); }); },
       ": general.alignment is 0, not a power of two"},
      {"alignment of another type",
       [] { return edited([](auto& w) { w.add("general.alignment", 32); }); },
       ": general.alignment is not a 32-bit unsigned integer"},
      {"alignment beyond the file",
       [] { return edited([](auto& w) { w.add("general.alignment", 1u << 31); }); },
       ": tensor 'second': offset 64 is not a multiple of the alignment 2147483648"},
      {"tensor name size",
       [] { return edited([](auto& w) { first_tensor(w).name = std::string(65, 'n'); }); },
       ": a tensor's name is 65 bytes long, more than 64"},
      {"tensor name size 2^64-1",
       [=] { return edited([=](auto& w) { first_tensor(w).name_bytes = max64; }); },
       ": a tensor's name is 18446744073709551615 bytes long, more than 64"},
      {"tensor without a name", [] { return edited([](auto& w) { first_tensor(w).name = ""; }); },
       ": a tensor's name is empty"},
      {"tensor name not UTF-8",
       [] { return edited([](auto& w) { first_tensor(w).name = "\xed\xa0\x80"; }); },
       ": a tensor's name is not printable UTF-8"},
      {"n_dims 0", [] { return edited([](auto& w) { first_tensor(w).dims = {}; }); },
       ": tensor 'first' has 0 dimensions, not 1 to 4"},
      {"n_dims 5", [] { return edited([](auto& w) {
                          first_tensor(w).dims = {1, 1, 1, 1, 15};
                        }); },
       ": tensor 'first' has 5 dimensions, not 1 to 4"},
      {"n_dims 2^32-1",
       [] { return edited([](auto& w) { first_tensor(w).num_dims = 0xffffffff; }); },
       ": tensor 'first' has 4294967295 dimensions, not 1 to 4"},
      {"dimension 0", [] { return edited([](auto& w) {
                             first_tensor(w).dims = {0, 15};
                           }); },
       ": tensor 'first': dimension 0 is 0"},
      {"negative dimension",
       [=] { return edited([=](auto& w) { first_tensor(w).dims = {max64}; }); },
       ": tensor 'first': 18446744073709551615 is out of range"},
      {"elements overflow 64 bits",
       [] {
         return edited([](auto& w) {
           first_tensor(w).dims = {uint64_t{1} << 32, uint64_t{1} << 32, 1};
         });
       },
       ": tensor 'first': 4294967296 * 4294967296 overflows"},
      {"elements overflow 63 bits",
       [] {
         return edited([](auto& w) {
           first_tensor(w).dims = {uint64_t{1} << 32, uint64_t{1} << 31};
         });
       },
       ": tensor 'first': 9223372036854775808 is out of range"},
      {"bytes overflow",
       [] { return edited([](auto& w) { first_tensor(w).dims = {uint64_t{1} << 62}; }); },
       ": tensor 'first': 4611686018427387904 * 4 overflows"},
      {"offset plus bytes overflow",
       [=] { return edited([=](auto& w) { first_tensor(w).offset = max64 - 31; }); },
       ": tensor 'first': 18446744073709551584 + 60 overflows"},
      // llama.cpp's CVE-2025-53630 and its bypass: sizes that only wrap when summed or padded.
      {"sum of sizes overflows",
       [] {
         return edited([](auto& w) {
           w.tensors.clear();
           w.tensors.push_back({"a", {(uint64_t{1} << 61) - 8}, 0, ""});
           w.tensors.push_back({"b", {(uint64_t{1} << 61) - 8}, 0, "", (uint64_t{1} << 63) - 32});
         });
       },
       ": tensor 'a' ends at "},
      {"padded size overflows",
       [] {
         return edited([](auto& w) {
           w.tensors.clear();
           w.tensors.push_back({"a", {(uint64_t{1} << 62) - 1}, 0, ""});
         });
       },
       ": tensor 'a' ends at "},
      {"unsupported type", [] { return edited([](auto& w) { first_tensor(w).type = 16; }); },
       ": tensor 'first' has type IQ2_XXS, which is not read (F32 F16 BF16 Q4_0"},
      {"removed type", [] { return edited([](auto& w) { first_tensor(w).type = 33; }); },
       ": tensor 'first' has type Q4_0_8_8, which is not read"},
      {"type nobody knows", [] { return edited([](auto& w) { first_tensor(w).type = 4242; }); },
       ": tensor 'first' has type number 4242, which is not read"},
      {"row not a whole number of blocks",
       [] { return edited([](auto& w) {
              w.tensors[1].dims = {16, 4};
            }); },
       ": tensor 'second': rows of 16 elements do not divide into Q8_0 blocks of 32"},
      {"duplicate tensor", [] { return edited([](auto& w) { w.tensors[1].name = "first"; }); },
       ": tensor 'first' appears twice"},
      {"offset not aligned", [] { return edited([](auto& w) { w.tensors[1].offset = 65; }); },
       ": tensor 'second': offset 65 is not a multiple of the alignment 32"},
      {"alignment of data and key differ",
       [] { return edited([](auto& w) { w.add("general.alignment", 64u); }); },
       ": tensor 'third': offset 160 is not a multiple of the alignment 64"},
      {"overlap", [] { return edited([](auto& w) { w.tensors[1].offset = 32; }); },
       ": tensor 'second' lies at offset 32 of the tensor data, where 64 was expected: it overlaps "
       "another"},
      {"same place", [] { return edited([](auto& w) { w.tensors[1].offset = 0; }); },
       "was expected: it overlaps another"},
      {"hole", [] { return edited([](auto& w) { w.tensors[2].offset = 192; }); },
       ": tensor 'third' lies at offset 192 of the tensor data, where 160 was expected: it leaves "
       "a "
       "hole before it"},
      {"hole at the start",
       [] { return edited([](auto& w) { first_tensor(w).offset = 1 << 20; }); },
       "it leaves a hole before it"},
      {"not enough data",
       [] {
         std::string bytes = good().bytes();
         bytes.pop_back();
         return bytes;
       },
       ": tensor 'third' ends at 174 of the tensor data, of which the file holds 173 bytes: it is "
       "cut "
       "short"},
      {"too much data", [] { return good().bytes() + std::string(64, 'x'); },
       "bytes follow the last tensor"},
  };
  return cases;
}

TEST(Gguf, RefusesEveryKindOfBadFile) {
  ASSERT_EQ(refusal(good().bytes()), "");
  for (const BadCase& c : bad_cases()) {
    const std::string said = refusal(c.make());
    EXPECT_THAT(said, AllOf(HasSubstr(c.message), HasSubstr("x.gguf: at byte "))) << c.name;
    EXPECT_EQ(said.find('\n'), std::string::npos) << c.name << ": one line";
  }
}

TEST(Gguf, OffsetsPointAtTheDamage) {
  GgufWriter w;
  w.add("a", 1.0f);                                   // byte 24: 8 + 1 + 4 + 4 = 17
  w.add_raw("b", static_cast<GgufType>(77), "1234");  // byte 41; its type at 41 + 9
  EXPECT_THAT(refusal(w.bytes()), HasSubstr("at byte 50: a metadata type is 77"));
}

TEST(Gguf, TruncationAtEveryByteIsAnError) {
  const std::string bytes = good().bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    // A heap block of exactly this size, so that the sanitizer sees one byte too many.
    const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_THROW(GgufFile::parse(std::as_bytes(std::span(cut)), "cut.gguf"), Error) << size;
  }
}

TEST(Gguf, FlippedBytesNeverCrash) {
  const std::string bytes = good().bytes();
  SplitMix64 rng(1);
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<char> damaged(bytes.begin(), bytes.end());
    for (uint64_t n = 1 + rng.below(4); n > 0; --n)
      damaged[rng.below(damaged.size())] = static_cast<char>(rng.next());
    try {
      GgufFile::parse(std::as_bytes(std::span(damaged)), "flipped.gguf");
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 5000) << "most of this file is structure";
}

TEST(Gguf, TheFuzzersSeedsAreGoodFiles) {
  int seeds = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(test::source_dir() / "tests/fuzz/corpus/gguf")) {
    EXPECT_NO_THROW(GgufFile::open(entry.path())) << entry.path();
    ++seeds;
  }
  EXPECT_GE(seeds, 5);
}

TEST(Gguf, RefusingIsCheapInMemoryAndTime) {
  // The files that cost the most memory for each byte they hold.
  GgufWriter strings;
  strings.add("words", std::vector<std::string>(4'000'000));
  GgufWriter bytes;
  bytes.add("bytes", std::vector<uint8_t>(32'000'000));
  GgufWriter keys;
  for (int i = 0; i < 1'000'000; ++i) keys.add(fmt::format("{:07x}", i), uint8_t{1});
  GgufWriter tensors;
  for (int i = 0; i < 500'000; ++i)
    tensors.add_tensor(fmt::format("{:07x}", i), DType::kF32, {1}, "");
  for (const GgufWriter* w : {&strings, &bytes, &keys, &tensors}) {
    const std::string file = w->bytes();
    const double start = test::process_cpu_seconds();
    const test::PeakMemory memory = test::peak_memory_of(
        [&] { EXPECT_THAT(refusal(file), HasSubstr("need more than 64 MiB of memory")); });
    const double taken = test::process_cpu_seconds() - start;
    EXPECT_LE(memory.bytes, (uint64_t{64} << 20) + file.size());
    EXPECT_LE(taken, 2.0 * test::kSlowBuild);
  }
}

TEST(Gguf, OpensTheRealModel) {
  const auto path = test::real_model();
  if (!path) GTEST_SKIP() << "no SmolLM2 GGUF: run './dev setup' or set LOWKEY_MODEL";
  const GgufFile file = GgufFile::open(*path);
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.tensors().size(), 272u);
  EXPECT_EQ(file.metadata().size(), 33u);
  EXPECT_EQ(file.data_offset(), 1785664u);
  EXPECT_EQ(file.alignment(), 32u);
  std::map<DType, int> count;
  std::map<DType, uint64_t> bytes;
  for (const TensorView& tensor : file.tensors()) {
    ++count[tensor.dtype];
    bytes[tensor.dtype] += tensor.data.size();
  }
  EXPECT_EQ(count,
            (std::map<DType, int>{{DType::kF32, 61}, {DType::kQ4_1, 210}, {DType::kQ8_0, 1}}));
  EXPECT_EQ(bytes[DType::kQ8_0], 49152u * 576 / 32 * 34);
  EXPECT_EQ(file.get_strings("tokenizer.ggml.tokens").size(), 49152u);
  EXPECT_EQ(file.get_strings("tokenizer.ggml.merges").size(), 48900u);
}

TEST(Gguf, OpensTheSharedFiles) {
  const auto stories = test::shared_data("stories260K/stories260K-f32.gguf");
  if (!stories) GTEST_SKIP() << "no shared data: set LOWKEY_SHARED_DIR";
  const GgufFile file = GgufFile::open(*stories);
  EXPECT_EQ(file.tensors().size(), 48u);
  EXPECT_EQ(file.get_int("llama.block_count"), 5);
  for (const char* name : {"gpt-2", "gpt-neox", "llama-spm", "phi-3"}) {
    const auto path = test::shared_data(fmt::format("tokenizer/ggml-vocab-{}.gguf", name));
    ASSERT_TRUE(path.has_value()) << name;
    EXPECT_TRUE(GgufFile::open(*path).tensors().empty());
  }
}

TEST(Gguf, MissingFileIsNamed) {
  try {
    GgufFile::open("/no/such/file.gguf");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), HasSubstr("/no/such/file.gguf"));
  }
}

}  // namespace
}  // namespace lowkey
