#include "core/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "core/error.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using ::testing::HasSubstr;

template <typename F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return std::string(error_code_name(error.code())) + ": " + error.what();
  }
  return "";
}

size_t files_in(const std::filesystem::path& folder) {
  const std::filesystem::directory_iterator all(folder);
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

TEST(Files, WriteThenRead) {
  const test::TempDir dir;
  const std::string contents = std::string("a\0b\n", 4) + std::string(1 << 20, 'x');
  write_file_atomically(dir / "f", contents);
  EXPECT_EQ(read_file(dir / "f"), contents);
  write_file_atomically(dir / "f", "");
  EXPECT_EQ(read_file(dir / "f"), "");
  EXPECT_EQ(files_in(dir.path()), 1u) << "no temporary file stays";
  struct stat info {};
  ASSERT_EQ(::stat((dir / "f").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0644u);
}

TEST(Files, ReadingNamesThePathAndKeepsTheLimit) {
  const test::TempDir dir;
  EXPECT_THAT(refusal([&] { read_file(dir / "absent"); }),
              testing::AllOf(HasSubstr("not_found: "), HasSubstr("absent: cannot open")));
  EXPECT_THAT(refusal([&] { read_file(dir.path()); }), HasSubstr("is a folder, not a file"));
  write_file_atomically(dir / "f", "12345");
  EXPECT_EQ(read_file(dir / "f", 5), "12345");
  EXPECT_THAT(refusal([&] { read_file(dir / "f", 4); }),
              testing::AllOf(HasSubstr("resource_exhausted: "), HasSubstr("larger than 4 bytes")));
  EXPECT_THAT(refusal([&] { read_file("/dev/zero", 1 << 20); }), HasSubstr("larger than 1048576"));
}

TEST(Files, WritingThatFailsLeavesTheOldFile) {
  const test::TempDir dir;
  EXPECT_THAT(
      refusal([&] { write_file_atomically(dir / "no/such/folder/f", "x"); }),
      testing::AllOf(HasSubstr("not_found: "), HasSubstr("cannot create a file beside it")));
  std::filesystem::create_directory(dir / "taken");
  write_file_atomically(dir / "taken/inside", "x");
  EXPECT_THAT(refusal([&] { write_file_atomically(dir / "taken", "x"); }),
              testing::AllOf(HasSubstr("io: "), HasSubstr("cannot rename into place")));
  EXPECT_EQ(files_in(dir.path()), 1u) << "the temporary file is gone";
  EXPECT_EQ(read_file(dir / "taken/inside"), "x");
}

TEST(Files, ReadersSeeTheOldFileOrTheNewOne) {
  const test::TempDir dir;
  const std::string a(100'000, 'a'), b(200'000, 'b');
  write_file_atomically(dir / "f", a);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int i = 0; i < 50; ++i) write_file_atomically(dir / "f", i % 2 ? a : b);
    done = true;
  });
  int reads = 0;
  do {
    const std::string seen = read_file(dir / "f");
    EXPECT_TRUE(seen == a || seen == b) << "torn: " << seen.size() << " bytes";
    ++reads;
  } while (!done);
  writer.join();
  EXPECT_GT(reads, 0);
}

}  // namespace
}  // namespace lowkey
