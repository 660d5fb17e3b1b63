// A search's journal: parsing either throws lowkey::Error or yields records that, written again,
// are parsed alike. No mutation meets a checksum by chance, so the first byte says whether the rest
// is a file as it is, or lines that get their checksums here.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "tune/journal.h"

namespace {

using lowkey::tune::JournalContents;

std::string with_checksums(std::string_view text) {
  std::string file, digits;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    const std::string line = lowkey::tune::journal_line(digits, text.substr(0, newline));
    digits = line.substr(line.size() - 17, 16);
    file += line;
    if (newline == std::string_view::npos) break;
    text.remove_prefix(newline + 1);
  }
  return file;
}

void check(std::string_view file) {
  const JournalContents contents = lowkey::tune::parse_journal(file, "fuzz");
  LOWKEY_CHECK(contents.whole_bytes <= file.size());
  LOWKEY_CHECK(contents.torn == (contents.whole_bytes < file.size()));
  if (contents.settings.is_null()) {
    LOWKEY_CHECK(contents.records.empty() && contents.whole_bytes == 0);
    return;
  }
  const JournalContents prefix =
      lowkey::tune::parse_journal(file.substr(0, contents.whole_bytes), "fuzz");
  LOWKEY_CHECK(!prefix.torn && prefix.records == contents.records);
  LOWKEY_CHECK(prefix.settings == contents.settings && prefix.digits == contents.digits);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    check(data[0] % 2 == 0 ? std::string(text) : with_checksums(text));
  } catch (const lowkey::Error&) {
  }
  return 0;
}
