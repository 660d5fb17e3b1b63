#pragma once
// What a long run has measured so far, in a file that survives being killed at any moment. A line
// per record: JSON, a tab, 16 hexadecimal digits. They are the first of the SHA-256 of the line
// before's digits and this line's JSON, so that a line that was changed, lost or moved is noticed.
// The first line holds the settings under which the records are valid. `cut -f1` gives the JSON
// alone. Torch-free. A Journal belongs to one thread.
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace lowkey::tune {

// One line with its newline; `previous` is the digits of the line before, empty for the first.
std::string journal_line(std::string_view previous, std::string_view json);

struct JournalContents {
  nlohmann::json settings;  // null: not even the first line was written to its end
  std::vector<nlohmann::json> records;
  std::string digits;      // of the last whole line
  size_t whole_bytes = 0;  // what remains when a torn end is cut off
  bool torn = false;       // the last line lacks its end, or is not what was written
};

// Throws Error kCorruptFile with source_name and line where the text is no journal or damaged
// before its last line, kUnsupported for one of another version.
JournalContents parse_journal(std::string_view text, const std::string& source_name);

class Journal {
 public:
  // Opens the journal at `path`, or makes it (not its folder), and locks it. A torn end is cut off.
  // `settings` is an object: everything that records depend on. Throws Error kIo (also when another
  // process has it open), kCorruptFile, and kInvalidArgument when the journal was written under
  // other settings, naming the first that differs.
  Journal(const std::filesystem::path& path, const nlohmann::json& settings);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // Those that were there when it was opened.
  const std::vector<nlohmann::json>& records() const { return records_; }
  bool was_torn() const { return was_torn_; }

  // On disk when it returns. An object, numbers finite; bytes that are not UTF-8 become U+FFFD.
  // Throws Error kIo; the journal then holds what it held before.
  void append(const nlohmann::json& record);

 private:
  void write_line(const std::string& line);

  std::filesystem::path path_;
  int fd_ = -1;
  std::vector<nlohmann::json> records_;
  std::string digits_;
  size_t size_ = 0;
  bool was_torn_ = false;
};

}  // namespace lowkey::tune
