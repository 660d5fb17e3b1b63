#pragma once
// Ends an answer at the first of several strings, without ever showing a part of one: text that
// might be the beginning of a stop string is held back until it is known. Torch-free.
#include <string>
#include <string_view>
#include <vector>

namespace lowkey {

class StopStrings {
 public:
  // Empty strings are ignored.
  explicit StopStrings(std::vector<std::string> stops);

  // Text that may be shown now. Once a stop string is complete, stopped() is true and nothing more
  // comes.
  std::string push(std::string_view text);
  // What was held back, when the answer ends for another reason.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace lowkey
