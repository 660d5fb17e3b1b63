#include "core/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"
#include "core/files.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using ::testing::HasSubstr;

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, ShowsTheBytesOfTheFile) {
  const test::TempDir dir;
  write_file_atomically(dir / "f", "contents");
  const MappedFile file(dir / "f");
  EXPECT_EQ(text_of(file), "contents");
  EXPECT_EQ(file.path(), dir / "f");
  write_file_atomically(dir / "f", "other");  // replaces the name, not the mapped bytes
  EXPECT_EQ(text_of(file), "contents");
}

TEST(MappedFile, EmptyFilesMapToNothing) {
  const test::TempDir dir;
  write_file_atomically(dir / "f", "");
  EXPECT_TRUE(MappedFile(dir / "f").bytes().empty());
  EXPECT_TRUE(MappedFile().bytes().empty());
}

TEST(MappedFile, MovesWithItsBytes) {
  const test::TempDir dir;
  write_file_atomically(dir / "a", "aa");
  write_file_atomically(dir / "b", "bbb");
  MappedFile a(dir / "a");
  const std::byte* where = a.bytes().data();
  MappedFile moved(std::move(a));
  EXPECT_EQ(moved.bytes().data(), where) << "views into a map survive its move";
  MappedFile b(dir / "b");
  b = std::move(moved);
  EXPECT_EQ(text_of(b), "aa");
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const test::TempDir dir;
  for (const auto& [path, code] :
       {std::pair(dir / "absent", ErrorCode::kNotFound), std::pair(dir.path(), ErrorCode::kIo)}) {
    try {
      MappedFile file(path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      EXPECT_THAT(error.what(), HasSubstr(path.string()));
    }
  }
}

}  // namespace
}  // namespace lowkey
