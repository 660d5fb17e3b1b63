// House rules that a compiler does not check: who may include whom, which files are dead, which
// have grown too long. Each rule is a function of a path and its text, so that it is shown to fire
// before it is applied to the tree.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

// Which rooms a room may include. A room not named here is above all of them and may include any.
const std::map<std::string, std::set<std::string>, std::less<>> kRooms = {
    {"core", {}},
    {"recipe", {"core"}},
    {"quant", {"core", "recipe"}},
    {"cache", {"core", "recipe", "quant"}},
    {"attention", {"core", "recipe", "quant", "cache"}},
    {"load", {"core"}},
    {"linear", {"core", "load"}},
    {"model", {"core", "recipe", "quant", "cache", "attention", "load", "linear"}},
    {"engine", {"core", "recipe", "quant", "cache", "attention", "load", "linear", "model"}},
    {"eval",
     {"core", "recipe", "quant", "cache", "attention", "load", "linear", "model", "engine"}},
    {"probe",
     {"core", "recipe", "quant", "cache", "attention", "load", "linear", "model", "engine",
      "eval"}},
    {"tune",
     {"core", "recipe", "quant", "cache", "attention", "load", "linear", "model", "engine", "eval",
      "probe"}},
    {"report", {"core"}},
};
constexpr std::array kTorchFreeRooms = {"core",      "recipe", "quant",  "cache",
                                        "attention", "load",   "linear", "report"};

constexpr int kMaxLines = 800;
// Files that were longer when the rule came, and how long they were: a number here only ever falls.
const std::map<std::string, int> kLongFiles = {};

struct SourceFile {
  fs::path path;  // relative to the checkout
  std::string text;
};

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

fs::path checkout() {
  const char* dir = std::getenv("LOWKEY_SOURCE_DIR");
  return dir != nullptr ? fs::path(dir) : fs::current_path();
}

std::vector<SourceFile> source_files(const std::vector<std::string>& folders,
                                     const std::set<std::string>& extensions) {
  std::vector<SourceFile> files;
  for (const std::string& folder : folders) {
    const fs::path top = checkout() / folder;
    if (!fs::exists(top)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(top)) {
      if (entry.is_regular_file() && extensions.contains(entry.path().extension().string())) {
        files.push_back({fs::relative(entry.path(), checkout()), read_text(entry.path())});
      }
    }
  }
  std::sort(files.begin(), files.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

std::string room_of(const fs::path& path) {
  auto part = path.begin();
  return part != path.end() && *part == "src" && ++part != path.end() ? part->string() : "";
}

// The targets of all #include lines, without their quotes or brackets.
std::vector<std::string> includes_of(std::string_view text) {
  std::vector<std::string> targets;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    const size_t hash = line.find_first_not_of(" \t");
    if (hash == std::string::npos || line[hash] != '#') continue;
    const size_t word = line.find_first_not_of(" \t", hash + 1);
    if (word == std::string::npos || line.compare(word, 7, "include") != 0) continue;
    const size_t open = line.find_first_of("<\"", word);
    if (open == std::string::npos) continue;
    const size_t close = line.find_first_of(">\"", open + 1);
    if (close != std::string::npos) targets.push_back(line.substr(open + 1, close - open - 1));
  }
  return targets;
}

bool is_torch_header(std::string_view target) {
  return target.starts_with("torch/") || target.starts_with("ATen/") ||
         target.starts_with("c10/") || target.starts_with("caffe2/");
}

std::vector<std::string> forbidden_includes(const SourceFile& file) {
  std::vector<std::string> findings;
  const std::string room = room_of(file.path);
  const auto allowed = kRooms.find(room);
  const bool torch_free =
      std::find(kTorchFreeRooms.begin(), kTorchFreeRooms.end(), room) != kTorchFreeRooms.end();
  for (const std::string& target : includes_of(file.text)) {
    if (torch_free && is_torch_header(target)) {
      findings.push_back(
          fmt::format("{}: {} is torch-free, but includes {}", file.path.string(), room, target));
    }
    const std::string other = target.substr(0, target.find('/'));
    if (allowed != kRooms.end() && other != room && fs::exists(checkout() / "src" / other) &&
        target.find('/') != std::string::npos && !allowed->second.contains(other)) {
      findings.push_back(fmt::format("{}: {} may not include {}: that room is not below it",
                                     file.path.string(), room, target));
    }
  }
  return findings;
}

// Build files name sources relative to themselves; `build_text` is theirs, from the file's folder
// up to the root.
bool is_named(const fs::path& source, const fs::path& build_file, std::string_view build_text) {
  const std::string name = source.lexically_relative(build_file.parent_path()).generic_string();
  for (size_t at = build_text.find(name); at != std::string_view::npos;
       at = build_text.find(name, at + 1)) {
    const auto is_part_of_name = [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '/' || c == '.';
    };
    const bool starts = at == 0 || !is_part_of_name(build_text[at - 1]);
    const size_t end = at + name.size();
    if (starts && (end == build_text.size() || !is_part_of_name(build_text[end]))) return true;
  }
  return false;
}

int count_lines(std::string_view text) {
  return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
}

TEST(TidyRules, IncludesAreFoundHoweverTheyAreSpaced) {
  EXPECT_THAT(
      includes_of(
          "#include <a/b.h>\n  #  include \"c.h\"  // why\n// #include <d.h>\n#define include\n"),
      ElementsAre("a/b.h", "c.h"));
}

TEST(TidyRules, ATorchFreeRoomMayNotIncludeTorch) {
  EXPECT_THAT(forbidden_includes(
                  {"src/quant/x.cc", "#include <ATen/ATen.h>\n#include <c10/util/Half.h>\n"}),
              SizeIs(2));
  EXPECT_THAT(forbidden_includes({"src/model/x.cc", "#include <ATen/ATen.h>\n"}), IsEmpty());
}

TEST(TidyRules, ARoomMayNotIncludeARoomAboveIt) {
  EXPECT_THAT(forbidden_includes({"src/core/x.h", "#include \"recipe/recipe.h\"\n"}), SizeIs(1));
  EXPECT_THAT(forbidden_includes({"src/load/x.h", "#include \"recipe/recipe.h\"\n"}), SizeIs(1));
  EXPECT_THAT(forbidden_includes(
                  {"src/recipe/x.h", "#include \"core/error.h\"\n#include \"recipe/a.h\"\n"}),
              IsEmpty());
}

TEST(TidyRules, ASourceIsNamedOnlyByItsWholeName) {
  EXPECT_TRUE(is_named("src/core/half.cc", "src/core/CMakeLists.txt", "SOURCES error.cc half.cc)"));
  EXPECT_FALSE(
      is_named("src/core/half.cc", "src/core/CMakeLists.txt", "SOURCES not_half.cc half.ccx"));
  EXPECT_TRUE(is_named("src/load/gguf/a.cc", "src/load/CMakeLists.txt", "gguf/a.cc"));
}

TEST(Tidy, IncludesPointDownwardAndTorchStaysInItsRooms) {
  const auto files = source_files({"src"}, {".h", ".cc", ".cu", ".cuh"});
  ASSERT_FALSE(files.empty()) << "no sources under " << checkout()
                              << ": is LOWKEY_SOURCE_DIR right?";
  for (const SourceFile& file : files) {
    for (const std::string& finding : forbidden_includes(file)) ADD_FAILURE() << finding;
  }
}

TEST(Tidy, EverySourceIsBuilt) {
  // What is shared lies beside those who name it, or is named by a function under cmake/.
  std::vector<SourceFile> build_files = source_files({"src", "apps", "tests"}, {".txt"});
  for (SourceFile& file : source_files({"cmake"}, {".cmake"})) {
    // Its paths are ${CMAKE_SOURCE_DIR}/tests/...: as if a file of the checkout's root named them.
    file.path = file.path.filename();
    const std::string_view root = "${CMAKE_SOURCE_DIR}/";
    for (size_t at; (at = file.text.find(root)) != std::string::npos;) {
      file.text.replace(at, root.size(), " ");
    }
    build_files.push_back(std::move(file));
  }
  for (const SourceFile& file : source_files({"src", "apps", "tests"}, {".cc", ".cu"})) {
    const bool named =
        std::any_of(build_files.begin(), build_files.end(),
                    [&](const SourceFile& b) { return is_named(file.path, b.path, b.text); });
    EXPECT_TRUE(named) << file.path.string() << ": no build file names it";
  }
}

// Files that end in -inl.h are included once per instruction set, each time into another namespace.
TEST(Tidy, HeadersAreIncludedOnce) {
  for (const SourceFile& file : source_files({"src", "apps", "tests"}, {".h"})) {
    if (file.path.stem().string().ends_with("-inl")) continue;
    EXPECT_TRUE(file.text.starts_with("#pragma once\n"))
        << file.path.string() << ": begins with something else than #pragma once";
  }
}

TEST(Tidy, FilesStayShortEnoughToRead) {
  for (const SourceFile& file : source_files({"src", "apps", "tests", "tools", "cmake"},
                                             {".h", ".cc", ".cu", ".cuh", ".py", ".cmake"})) {
    const auto exception = kLongFiles.find(file.path.generic_string());
    const int limit = exception == kLongFiles.end() ? kMaxLines : exception->second;
    EXPECT_LE(count_lines(file.text), limit) << file.path.string() << ": split it; one idea a file";
  }
}

}  // namespace
