#include "tune/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/sha256.h"
#include "load/json.h"

namespace lowkey::tune {
namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;
constexpr const char* kVersionField = "lowkey_journal";
constexpr std::string_view kBegin = "{\"lowkey_journal\":";
constexpr size_t kDigits = 16;
constexpr JsonLimits kLimits = {.depth = 32, .string_bytes = uint64_t{1} << 20};
constexpr uint64_t kMaxBytes = uint64_t{1} << 30;
constexpr size_t kMaxShown = 60;  // of a setting's value, in messages

std::string digits_of(std::string_view previous, std::string_view json) {
  Sha256 hash;
  hash.update(previous);
  hash.update(json);
  return to_hex(hash.finish()).substr(0, kDigits);
}

std::string text_of(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string header_text(const Json& settings) {
  return text_of(Json{{kVersionField, kVersion}, {"settings", settings}});
}

// A line's JSON where its digits are right; nothing otherwise.
std::optional<std::string_view> checked(std::string_view line, std::string_view previous) {
  if (line.size() < kDigits + 1) return std::nullopt;
  const std::string_view json = line.substr(0, line.size() - kDigits - 1);
  const std::string_view rest = line.substr(json.size());
  if (rest[0] != '\t' || rest.substr(1) != digits_of(previous, json)) return std::nullopt;
  return json;
}

// The digits are right, and yet: somebody else wrote it.
Json parse_object(std::string_view json, const std::string& source_name, size_t line) {
  check_json_limits(json, kLimits, source_name);
  Json value = Json::parse(json, nullptr, false);
  if (!value.is_object()) {
    fail(ErrorCode::kCorruptFile,
         "{}: line {}: is not a JSON object; delete the file to start anew", source_name, line);
  }
  return value;
}

Json settings_of(const Json& header, const std::string& source_name) {
  const JsonFields fields(header, source_name);
  const int64_t version = fields.need(fields.get_int(kVersionField), kVersionField);
  if (version != kVersion) {
    fail(ErrorCode::kUnsupported,
         "{}: is a journal of version {}, this program writes version {}; delete it to start anew",
         source_name, version, kVersion);
  }
  const Json* settings = fields.find("settings");
  if (settings == nullptr || !settings->is_object()) {
    fail(ErrorCode::kCorruptFile, "{}: line 1: has no settings; delete the file to start anew",
         source_name);
  }
  return *settings;
}

std::string shown(const Json* value) {
  if (value == nullptr) return "nothing";
  std::string text = value->dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

struct Difference {
  std::string field;
  const Json* journal;
  const Json* present;
};

// The first field, in alphabetical order, whose values differ: as deep as both sides are objects.
std::optional<Difference> first_difference(const Json& journal, const Json& present,
                                           const std::string& prefix) {
  Json keys = journal;
  keys.update(present);  // both sides' fields
  for (const auto& [key, unused] : keys.items()) {
    const Json* a = journal.contains(key) ? &journal.at(key) : nullptr;
    const Json* b = present.contains(key) ? &present.at(key) : nullptr;
    if (a != nullptr && b != nullptr && a->is_object() && b->is_object()) {
      if (auto deeper = first_difference(*a, *b, prefix + key + ".")) return deeper;
    } else if (a == nullptr || b == nullptr || *a != *b) {
      return Difference{prefix + key, a, b};
    }
  }
  return std::nullopt;
}

[[noreturn]] void fail_errno(const std::filesystem::path& path, const char* what) {
  fail(ErrorCode::kIo, "{}: {}: {}", path.string(), what, std::strerror(errno));
}

void sync_folder_of(const std::filesystem::path& path) {
  const std::filesystem::path parent = path.parent_path();
  const int folder =
      ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  ::fsync(folder);
  ::close(folder);
}

}  // namespace

std::string journal_line(std::string_view previous, std::string_view json) {
  return std::string(json) + "\t" + digits_of(previous, json) + "\n";
}

JournalContents parse_journal(std::string_view text, const std::string& source_name) {
  JournalContents contents;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t newline = text.find('\n');
    const std::string_view line = text.substr(0, newline);
    const bool last = newline == std::string_view::npos || newline + 1 == text.size();
    const auto json =
        newline == std::string_view::npos ? std::nullopt : checked(line, contents.digits);
    if (number == 1 && !json) {
      // Killed while it was made, if these are a first line's bytes. Anything else may be precious.
      const bool begun = newline == std::string_view::npos &&
                         line.substr(0, kBegin.size()) == kBegin.substr(0, line.size());
      if (!begun) {
        fail(ErrorCode::kCorruptFile,
             "{}: line 1: is not a journal's first line, or was changed since; move the file away "
             "to "
             "start anew",
             source_name);
      }
      contents.torn = true;
      return contents;
    }
    if (!json) {
      // Two checksums in one line: not torn, but run together by a newline that was changed.
      const bool run_together = std::count(line.begin(), line.end(), '\t') > 1;
      if (!last || run_together) {
        fail(
            ErrorCode::kCorruptFile,
            "{}: line {}: was changed since it was written (its checksum is another); cut the file "
            "off before it to keep the {} records above, or delete the file to start anew",
            source_name, number, number - 2);
      }
      contents.torn = true;
      return contents;
    }
    Json value = parse_object(*json, source_name, number);
    if (number == 1) {
      contents.settings = settings_of(value, source_name);
    } else {
      contents.records.push_back(std::move(value));
    }
    contents.digits = line.substr(line.size() - kDigits);
    contents.whole_bytes += newline + 1;
    text.remove_prefix(newline + 1);
  }
  return contents;
}

Journal::Journal(const std::filesystem::path& path, const nlohmann::json& settings) : path_(path) {
  LOWKEY_CHECK(settings.is_object(), "a journal's settings are an object");
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_errno(path, "cannot open");
  try {
    // Before anything is read: until then its end may be in the middle of another process's line.
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) fail_errno(path, "cannot lock");
      fail(ErrorCode::kIo,
           "{}: another process is writing this journal; wait until it is done, or give another -o",
           path.string());
    }
    JournalContents contents = parse_journal(read_file(path, kMaxBytes), path.string());
    was_torn_ = contents.torn;
    size_ = contents.whole_bytes;
    digits_ = contents.digits;
    records_ = std::move(contents.records);
    if (was_torn_ && ::ftruncate(fd_, static_cast<off_t>(size_)) != 0) {
      fail_errno(path, "cannot cut its torn end off");
    }
    // What it was when it was written: -0.0, 1.0 and text that is no UTF-8 come back otherwise.
    const std::string header = header_text(settings);
    if (size_ == 0) {
      write_line(journal_line("", header));
      sync_folder_of(path);
    } else {
      const Json present = Json::parse(header).at("settings");
      if (auto difference = first_difference(contents.settings, present, "")) {
        fail(
            ErrorCode::kInvalidArgument,
            "{}: was begun with other settings: {} was {}, now it is {}; give the same settings to "
            "resume, or another -o",
            path.string(), difference->field, shown(difference->journal),
            shown(difference->present));
      }
    }
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

Journal::~Journal() {
  ::close(fd_);  // and with it the lock
}

void Journal::append(const nlohmann::json& record) {
  LOWKEY_CHECK(record.is_object(), "a journal's record is an object");
  write_line(journal_line(digits_, text_of(record)));
}

void Journal::write_line(const std::string& line) {
  ssize_t written;
  do {
    written = ::write(fd_, line.data(), line.size());
  } while (written < 0 && errno == EINTR);
  const bool whole = written == static_cast<ssize_t>(line.size());
  if (!whole || ::fdatasync(fd_) != 0) {
    const int error = whole || written < 0 ? errno : ENOSPC;
    // Without what is there of the line; if even that fails, opening will cut it off.
    const int ignored = ::ftruncate(fd_, static_cast<off_t>(size_));
    static_cast<void>(ignored);
    errno = error;
    fail_errno(path_, "cannot write");
  }
  size_ += line.size();
  digits_ = line.substr(line.size() - 1 - kDigits, kDigits);
}

}  // namespace lowkey::tune
