#include "load/safetensors_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <numeric>

#include "core/error.h"
#include "load/safetensors.h"
#include "support/paths.h"

namespace lowkey {
namespace {

std::span<const std::byte> bytes_of(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}

size_t files_in(const std::filesystem::path& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

TEST(SafetensorsWriter, ReaderFindsWhatWasWritten) {
  const test::TempDir folder;
  std::vector<float> a(6), b(3);
  std::iota(a.begin(), a.end(), 1.0f);
  std::iota(b.begin(), b.end(), -7.0f);
  SafetensorsWriter writer(folder.path() / "x.safetensors",
                           {{"a", "F32", {2, 3}}, {"none", "F16", {0, 4}}, {"b", "F32", {3}}},
                           {{"what", "a \"test\", with ünicode"}});
  writer.write(bytes_of(a));
  writer.write({});
  writer.write(bytes_of(b));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "x.safetensors")) << "not before finish()";
  writer.finish();
  EXPECT_EQ(files_in(folder.path()), 1u);

  const SafetensorsFile file = SafetensorsFile::open(folder.path() / "x.safetensors");
  EXPECT_EQ(file.metadata().at("what"), "a \"test\", with ünicode");
  ASSERT_EQ(file.tensors().size(), 3u);
  for (const TensorView& tensor : file.tensors()) {
    const std::vector<float>& want = tensor.name == "a" ? a : b;
    if (tensor.name == "none") continue;
    EXPECT_EQ(tensor.shape,
              tensor.name == "a" ? std::vector<int64_t>({2, 3}) : std::vector<int64_t>({3}));
    ASSERT_EQ(tensor.data.size(), want.size() * sizeof(float));
    EXPECT_EQ(std::memcmp(tensor.data.data(), want.data(), tensor.data.size()), 0);
  }
}

TEST(SafetensorsWriter, UnfinishedLeavesNothing) {
  const test::TempDir folder;
  { SafetensorsWriter writer(folder.path() / "x.safetensors", {{"a", "U8", {2}}}, {}); }
  EXPECT_EQ(files_in(folder.path()), 0u);
}

TEST(SafetensorsWriter, RefusesWhatNoReaderWouldTake) {
  const test::TempDir folder;
  const auto write = [&](std::vector<SafetensorsEntry> entries,
                         const std::map<std::string, std::string>& metadata = {}) {
    SafetensorsWriter(folder.path() / "x.safetensors", std::move(entries), metadata);
  };
  EXPECT_THROW(write({{"a", "F8", {2}}}), Error);
  EXPECT_THROW(write({{"a", "F32", {2}}, {"a", "F32", {2}}}), Error);
  EXPECT_THROW(write({{"a", "F32", {-1}}}), Error);
  EXPECT_THROW(write({{"a", "F32", {int64_t{1} << 40, int64_t{1} << 40}}}), Error);
  EXPECT_THROW(write({}, {{"bad", "\xff"}}), Error);
  EXPECT_EQ(files_in(folder.path()), 0u);
}

}  // namespace
}  // namespace lowkey
