#include "load/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/rng.h"
#include "support/cpu_clock.h"
#include "support/gguf_writer.h"
#include "support/memory.h"
#include "support/paths.h"
#include "support/safetensors_writer.h"

namespace lowkey {
namespace {

using test::SafetensorsWriter;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

SafetensorsFile parse(const std::string& bytes) {
  return SafetensorsFile::parse(std::as_bytes(std::span(bytes)), "x.safetensors");
}

std::string refusal(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    return std::string(error_code_name(error.code())) + ": " + error.what();
  }
  return "";
}

SafetensorsWriter good() {
  SafetensorsWriter w;
  w.metadata["format"] = "pt";
  w.add_tensor("a", "F32", {2, 3}, std::string(24, 'a'));
  w.add_tensor("ids", "I64", {2}, std::string(16, 'i'));
  w.add_tensor("b", "BF16", {5}, std::string(10, 'b'));
  w.add_tensor("scalar", "F16", {}, std::string(2, 's'));
  w.add_tensor("empty", "F32", {0, 7}, "");
  return w;
}

// `header` followed by `data_bytes` bytes.
std::string with_header(const std::string& header, size_t data_bytes = 0) {
  return test::ByteWriter().put(uint64_t{header.size()}).raw(header).bytes() +
         std::string(data_bytes, 'd');
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  for (bool pad : {false, true}) {
    SafetensorsWriter w = good();
    w.pad_header = pad;
    const std::string bytes = w.bytes();
    const SafetensorsFile file = parse(bytes);
    EXPECT_THAT(file.metadata(), ElementsAre(std::pair("format", "pt")));
    ASSERT_EQ(file.tensors().size(), 4u);
    EXPECT_EQ(file.tensors()[0].name, "a");
    EXPECT_EQ(file.tensors()[0].dtype, DType::kF32);
    EXPECT_THAT(file.tensors()[0].shape, ElementsAre(2, 3));
    EXPECT_EQ(file.tensors()[0].data.size(), 24u);
    EXPECT_EQ(file.tensors()[0].data[0], std::byte{'a'});
    EXPECT_EQ(file.tensors()[1].dtype, DType::kBF16);
    EXPECT_EQ(file.tensors()[1].data[9], std::byte{'b'});
    EXPECT_EQ(file.tensors()[2].dtype, DType::kF16);
    EXPECT_EQ(file.tensors()[2].cols(), 1);
    EXPECT_EQ(file.tensors()[3].data.size(), 0u);
    EXPECT_THAT(file.other_types(), ElementsAre(std::pair("ids", "I64")));
  }
  EXPECT_TRUE(parse(with_header("{}")).tensors().empty());
}

TEST(Safetensors, NamesAreWhatTheJsonSays) {
  const std::string bytes = with_header(
      R"({"gr\u00f6\u00dfer.\"x\"":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}})", 4);
  EXPECT_EQ(parse(bytes).tensors().at(0).name, "größer.\"x\"");
}

struct BadCase {
  const char* name;
  std::string bytes;
  const char* message;
};

TEST(Safetensors, RefusesEveryKindOfBadFile) {
  const std::string deep =
      R"({"__metadata__":)" + std::string(20, '[') + std::string(20, ']') + "}";
  SafetensorsWriter longer = good(), shorter = good();
  longer.header_bytes = 1'000'000;
  shorter.header_bytes = 20;
  const std::vector<BadCase> cases{
      {"empty", "", "corrupt_file: x.safetensors: at byte 0: the header's length needs 8 bytes"},
      {"no header", test::ByteWriter().put(uint64_t{0}).bytes(),
       "at byte 8: the header does not begin with '{'"},
      {"header above 100 MB", test::ByteWriter().put(uint64_t{100'000'001}).raw("{}").bytes(),
       "at byte 0: the header says it is 100000001 bytes long, more than 100000000"},
      {"header 2^64-1", test::ByteWriter().put(UINT64_MAX).raw("{}").bytes(),
       "at byte 0: the header says it is 18446744073709551615 bytes long"},
      {"header longer than the file", longer.bytes(),
       "at byte 8: the header needs 1000000 bytes, but"},
      {"header cut", shorter.bytes(), "the header is not valid JSON"},
      {"not an object", with_header("[]"), "at byte 8: the header does not begin with '{'"},
      {"leading space", with_header(" {}"), "at byte 8: the header does not begin with '{'"},
      {"not JSON", with_header("{abc}"), "the header is not valid JSON"},
      {"two values", with_header("{}{}"), "the header is not valid JSON"},
      {"invalid UTF-8", with_header("{\"\xff\":{}}"), "the header is not valid JSON"},
      {"number too large", with_header(R"({"a":{"dtype":"F32","shape":[1e999]}})"),
       "the header is not valid JSON"},
      {"too deep", with_header(deep), "at byte 31: JSON nests deeper than 8"},
      {"very deep", with_header("{\"a\":" + std::string(1'000'000, '[')),
       "at byte 20: JSON nests deeper than 8"},
      {"huge string", with_header("{\"" + std::string(5'000'000, 'x') + "\":{}}"),
       "at byte 9: a JSON string is longer than 4194304 bytes"},
      {"entry is a number", with_header(R"({"a":1})"), "'a' is a number, not an object"},
      {"entry is null", with_header(R"({"a":null})"), "'a' is null, not an object"},
      {"entry is an array", with_header(R"({"a":[]})"), "'a' is an array, not an object"},
      {"metadata value is a number", with_header(R"({"__metadata__":{"a":1}})"),
       "a number does not belong in 'a' of '__metadata__'"},
      {"metadata twice", with_header(R"({"__metadata__":{},"__metadata__":{}})"),
       "'__metadata__' appears twice"},
      {"metadata key twice", with_header(R"({"__metadata__":{"a":"1","a":"2"}})"),
       "__metadata__ 'a' appears twice"},
      {"duplicate name",
       with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                   R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                   8),
       "'a' appears twice"},
      {"terminal escape in a name", with_header(R"({"\u001b[2J":{}})"),
       "a tensor's name is not printable"},
      {"no dtype", with_header(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4),
       "tensor 'a' has no dtype"},
      {"no shape", with_header(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4),
       "tensor 'a' has no shape"},
      {"no offsets", with_header(R"({"a":{"dtype":"F32","shape":[1]}})", 4),
       "tensor 'a' has no two data_offsets"},
      {"one offset", with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4),
       "tensor 'a' has no two data_offsets"},
      {"three offsets",
       with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4),
       "tensor 'a' has more than two data_offsets"},
      {"field twice", with_header(R"({"a":{"shape":[1],"shape":[1]}})"),
       "tensor 'a' has 'shape' twice"},
      {"unknown field", with_header(R"({"a":{"strides":[1]}})"),
       "tensor 'a' has an unknown field 'strides'"},
      {"dtype is a number", with_header(R"({"a":{"dtype":3}})"),
       "a number does not belong in 'dtype' of 'a'"},
      {"unknown dtype", with_header(R"({"a":{"dtype":"Q3","shape":[1],"data_offsets":[0,4]}})", 4),
       "unsupported: x.safetensors: at byte 60: tensor 'a' has unknown dtype 'Q3'"},
      {"shape is a number", with_header(R"({"a":{"shape":3}})"),
       "a number does not belong in 'shape' of 'a'"},
      {"nested shape", with_header(R"({"a":{"shape":[[3]]}})"),
       "an array does not belong in 'shape' of 'a'"},
      {"negative dimension", with_header(R"({"a":{"shape":[-3]}})"),
       "a negative number does not belong in 'shape' of 'a'"},
      {"fractional dimension", with_header(R"({"a":{"shape":[1.5]}})"),
       "a fraction does not belong in 'shape' of 'a'"},
      {"text in a shape", with_header(R"({"a":{"shape":["1"]}})"),
       "a string does not belong in 'shape' of 'a'"},
      {"true in a shape", with_header(R"({"a":{"shape":[true]}})"),
       "true or false does not belong in 'shape' of 'a'"},
      {"nine dimensions", with_header(R"({"a":{"shape":[1,1,1,1,1,1,1,1,1]}})"),
       "tensor 'a' has more than 8 dimensions"},
      {"object in a tensor", with_header(R"({"a":{"shape":{}}})"),
       "an object does not belong in 'shape' of 'a'"},
      {"elements overflow",
       with_header(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})"),
       "tensor 'a': 4294967296 * 4294967296 overflows"},
      {"bits overflow",
       with_header(R"({"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,0]}})"),
       "tensor 'a': 1152921504606846976 * 32 overflows"},
      {"rows overflow, though there are no elements",
       with_header(
           R"({"a":{"dtype":"F32","shape":[4294967296,2147483648,0],"data_offsets":[0,0]}})"),
       "tensor 'a': 9223372036854775808 is out of range"},
      {"dimension above 2^63",
       with_header(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,0]}})"),
       "tensor 'a': 18446744073709551615 is out of range"},
      {"data_offsets beyond the file",
       with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4),
       "tensor 'a' has data_offsets [0, 8], but the file holds 4 bytes of data"},
      {"data_offsets backwards",
       with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4),
       "tensor 'a' has data_offsets [4, 0]"},
      {"shape and bytes differ",
       with_header(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
       "tensor 'a' has 8 bytes of data, but F32 of shape [3] takes 96 bits"},
      {"half a byte", with_header(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1),
       "tensor 'a' has 1 bytes of data, but F4 of shape [3] takes 12 bits"},
      {"overlap",
       with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                   R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                   8),
       "tensor 'b' lies at 4 of the data, where 8 was expected: it overlaps another"},
      {"same bytes twice",
       with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                   R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                   4),
       "where 4 was expected: it overlaps another"},
      {"hole",
       with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                   R"("b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
                   12),
       "tensor 'b' lies at 8 of the data, where 4 was expected: it leaves a hole before it"},
      {"data at the end that nobody owns",
       with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 12),
       "at byte 66: 8 bytes of data belong to no tensor"},
      {"overlap with a type that is not read",
       with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                   R"("b":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})",
                   8),
       "overlaps another"},
  };
  ASSERT_EQ(refusal(good().bytes()), "");
  for (const BadCase& c : cases) {
    const std::string said = refusal(c.bytes);
    EXPECT_THAT(said, AllOf(HasSubstr(c.message), HasSubstr("x.safetensors: at byte "))) << c.name;
    EXPECT_EQ(said.find('\n'), std::string::npos) << c.name << ": one line";
  }
}

TEST(Safetensors, OffsetsPointAtTheDamage) {
  //                                    8 + 31: just after the second "a":
  EXPECT_THAT(refusal(with_header(R"({"b":{},)")),
              HasSubstr("at byte 15: tensor 'b' has no dtype"));
}

TEST(Safetensors, TruncationAtEveryByteIsAnError) {
  const std::string bytes = good().bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_THROW(SafetensorsFile::parse(std::as_bytes(std::span(cut)), "cut"), Error) << size;
  }
}

TEST(Safetensors, FlippedBytesNeverCrash) {
  const std::string bytes = good().bytes();
  SplitMix64 rng(2);
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<char> damaged(bytes.begin(), bytes.end());
    for (uint64_t n = 1 + rng.below(4); n > 0; --n)
      damaged[rng.below(damaged.size())] = static_cast<char>(rng.next());
    try {
      SafetensorsFile::parse(std::as_bytes(std::span(damaged)), "flipped");
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 15000) << "most of this file is structure";
}

TEST(Safetensors, TheFuzzersSeedsAreGoodFiles) {
  int seeds = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(test::source_dir() / "tests/fuzz/corpus/safetensors")) {
    EXPECT_NO_THROW(SafetensorsFile::open(entry.path())) << entry.path();
    ++seeds;
  }
  EXPECT_GE(seeds, 3);
}

TEST(Safetensors, RefusingIsCheapInMemoryAndTime) {
  std::string tensors = "{", metadata = R"({"__metadata__":{)", text;
  for (int i = 0; i < 400'000; ++i) {
    tensors += fmt::format(R"("{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},)", i);
    metadata += fmt::format(R"("{}":"",)", i);
  }
  const std::string tail = R"("last":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})";
  for (int i = 0; i < 20; ++i) text += fmt::format(R"("{}":"{}",)", i, std::string(4'000'000, 'x'));
  for (const std::string& header :
       {tensors + tail, metadata + R"("":""}})", R"({"__metadata__":{)" + text + R"("":""}})"}) {
    const std::string file = with_header(header);
    const double start = test::process_cpu_seconds();
    const test::PeakMemory memory = test::peak_memory_of([&] {
      EXPECT_THAT(refusal(file), HasSubstr("the header needs more than 64 MiB of memory"));
    });
    const double taken = test::process_cpu_seconds() - start;
    EXPECT_LE(memory.bytes, (uint64_t{64} << 20) + file.size());
    EXPECT_LE(taken, 2.0 * test::kSlowBuild);
  }
}

}  // namespace
}  // namespace lowkey
