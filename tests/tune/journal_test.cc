#include "tune/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "recipe/errors.h"
#include "support/paths.h"

namespace lowkey::tune {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

Json settings() {
  return {{"model", "tiny"}, {"seed", 1}, {"search", {{"rounds", 8}, {"eps", 0.05}}}};
}

Json record(int i) {
  return {{"trial", i}, {"kl", 0.1 / (i + 1)}, {"kv", "kivi-4/2:r32\t\"x\"\n"}};
}

// A journal of three records, as text.
std::string sample(const test::TempDir& dir) {
  {
    Journal journal(dir / "sample", settings());
    for (int i = 0; i < 3; ++i) journal.append(record(i));
  }
  return read_file(dir / "sample");
}

TEST(Journal, RecordsComeBackInOrder) {
  const test::TempDir dir;
  {
    Journal journal(dir / "j", settings());
    EXPECT_TRUE(journal.records().empty());
    EXPECT_FALSE(journal.was_torn());
    journal.append(record(0));
    journal.append(record(1));
  }
  {
    Journal journal(dir / "j", settings());
    EXPECT_EQ(journal.records(), (std::vector<Json>{record(0), record(1)}));
    EXPECT_FALSE(journal.was_torn());
    journal.append(record(2));
  }
  const Journal journal(dir / "j", settings());
  EXPECT_EQ(journal.records(), (std::vector<Json>{record(0), record(1), record(2)}));
}

TEST(Journal, LinesAreReadable) {
  const test::TempDir dir;
  const std::string text = sample(dir);
  EXPECT_TRUE(text.starts_with("{\"lowkey_journal\":1,\"settings\":{\"model\":\"tiny\",")) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\t'), 4) << "one before each checksum";
  // Fixed: journals outlive the program that wrote them.
  EXPECT_EQ(journal_line("", "{}"), "{}\t44136fa355b3678a\n");
}

TEST(Journal, EveryTruncationRestoresAPrefix) {
  const test::TempDir dir;
  const std::string text = sample(dir);
  for (size_t size = 0; size < text.size(); ++size) {
    const std::string part = text.substr(0, size);
    write_file_atomically(dir / "j", part);
    const auto lines = std::count(part.begin(), part.end(), '\n');
    const bool whole = size == 0 || part.back() == '\n';
    const JournalContents contents = parse_journal(part, "j");
    ASSERT_EQ(contents.torn, !whole) << size;
    ASSERT_EQ(contents.records.size(), static_cast<size_t>(std::max<ptrdiff_t>(lines - 1, 0)));
    // On the disk too, but not every one: syncing takes milliseconds.
    const bool near_an_end = text.substr(size, 2).find('\n') != std::string::npos;
    if (!whole && !near_an_end && size % 37 != 0) continue;
    {
      Journal journal(dir / "j", settings());
      ASSERT_EQ(journal.was_torn(), !whole) << size;
      ASSERT_EQ(journal.records().size(), static_cast<size_t>(std::max<ptrdiff_t>(lines - 1, 0)));
      for (size_t i = 0; i < journal.records().size(); ++i) {
        ASSERT_EQ(journal.records()[i], record(static_cast<int>(i)));
      }
      // The rest is measured again: the same file.
      for (size_t i = journal.records().size(); i < 3; ++i) {
        journal.append(record(static_cast<int>(i)));
      }
    }
    ASSERT_EQ(read_file(dir / "j"), text) << size;
  }
}

TEST(Journal, EveryFlippedByteIsNoticed) {
  const test::TempDir dir;
  const std::string text = sample(dir);
  const size_t last_line = text.rfind('\n', text.size() - 2) + 1;
  for (size_t at = 0; at < text.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = text;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      try {
        const JournalContents contents = parse_journal(flipped, "j");
        // What may pass is a damaged last line, as torn.
        ASSERT_GE(at, last_line) << "bit " << bit;
        ASSERT_TRUE(contents.torn);
        ASSERT_EQ(contents.records.size(), 2u);
        ASSERT_EQ(contents.whole_bytes, last_line);
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::kCorruptFile) << at;
      }
    }
  }
}

TEST(Journal, LinesThatWereLostOrMovedAreNoticed) {
  const test::TempDir dir;
  const std::string text = sample(dir);
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at) + 1;
    lines.push_back(text.substr(at, end - at));
    at = end;
  }
  EXPECT_THAT(complaint([&] { parse_journal(lines[0] + lines[2] + lines[3], "a/j"); }),
              AllOf(HasSubstr("corrupt_file: a/j: line 2: was changed since it was written"),
                    HasSubstr("keep the 0 records above, or delete the file")));
  EXPECT_THAT(complaint([&] { parse_journal(lines[0] + lines[1] + lines[1] + lines[2], "j"); }),
              HasSubstr("j: line 3: "));
}

TEST(Journal, OtherSettingsAreRefusedByName) {
  const test::TempDir dir;
  const std::string before = sample(dir);
  const auto refusal = [&](const Json& other) {
    return complaint([&] { Journal(dir / "sample", other); });
  };
  Json other = settings();
  other["search"]["eps"] = 0.1;
  EXPECT_THAT(refusal(other),
              AllOf(HasSubstr("invalid_argument: "),
                    HasSubstr("sample: was begun with other settings: search.eps was 0.05, now it "
                              "is 0.1; give the same settings to resume, or another -o")));
  other = settings();
  other.erase("seed");
  EXPECT_THAT(refusal(other), HasSubstr("seed was 1, now it is nothing"));
  other = settings();
  other["new"] = std::string(200, 'x');
  EXPECT_THAT(refusal(other), HasSubstr("new was nothing, now it is \"xxx"));
  EXPECT_LT(refusal(other).size(), 300 + dir.path().string().size());
  EXPECT_EQ(read_file(dir / "sample"), before) << "a refusal changed the file";
}

TEST(Journal, FilesThatAreNoJournalStayAsTheyAre) {
  const test::TempDir dir;
  for (const std::string contents : {"precious", "{}", "precious\n", "{\"lowkey_journal\":1}\n"}) {
    write_file_atomically(dir / "f", contents);
    EXPECT_THAT(complaint([&] { Journal(dir / "f", settings()); }),
                AllOf(HasSubstr("corrupt_file: "), HasSubstr("f: line 1: "),
                      HasSubstr("move the file away to start anew")));
    EXPECT_EQ(read_file(dir / "f"), contents);
  }
  write_file_atomically(dir / "f", journal_line("", R"({"lowkey_journal":2,"settings":{}})"));
  EXPECT_THAT(complaint([&] { Journal(dir / "f", settings()); }),
              AllOf(HasSubstr("unsupported: "), HasSubstr("is a journal of version 2")));
  EXPECT_THAT(complaint([&] { Journal(dir / "no/such/folder/f", settings()); }), HasSubstr("io: "));
}

TEST(Journal, OnlyOneProcessWrites) {
  const test::TempDir dir;
  {
    const Journal first(dir / "j", settings());
    // flock is per open file: a second one in this process is refused as another process's is.
    EXPECT_THAT(complaint([&] { Journal(dir / "j", settings()); }),
                AllOf(HasSubstr("io: "), HasSubstr("j: another process is writing this journal")));
  }
  const Journal again(dir / "j", settings());
}

TEST(Journal, TextThatIsNotUtf8IsKeptReadable) {
  const test::TempDir dir;
  { Journal(dir / "j", settings()).append({{"token", "a\xff"}}); }
  EXPECT_EQ(Journal(dir / "j", settings()).records().at(0).at("token"), "a\xef\xbf\xbd");
}

// A child appends until it is killed; what is there then is a prefix of what it meant to write.
TEST(Journal, KilledAtAnyMomentItKeepsAPrefix) {
  const test::TempDir dir;
  size_t most = 0;
  for (int round = 0; round < 8; ++round) {
    std::filesystem::remove(dir / "j");
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      Journal journal(dir / "j", settings());
      for (int i = 0;; ++i) journal.append(record(i));
    }
    usleep(3000 + 7001 * round);
    ASSERT_EQ(kill(child, SIGKILL), 0);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    const Journal journal(dir / "j", settings());
    most = std::max(most, journal.records().size());
    for (size_t i = 0; i < journal.records().size(); ++i) {
      ASSERT_EQ(journal.records()[i], record(static_cast<int>(i)));
    }
  }
  EXPECT_GT(most, 0u);
}

// In a child, whose files may not grow: the half line is taken back.
TEST(Journal, AFullDiskLeavesWhatWasThere) {
  const test::TempDir dir;
  const std::string before = sample(dir);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Journal journal(dir / "sample", settings());
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{before.size() + 10, before.size() + 10};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
    const std::string said = complaint([&] { journal.append(record(3)); });
    _exit(said.starts_with("io: ") && read_file(dir / "sample") == before ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace lowkey::tune
