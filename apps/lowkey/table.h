#pragma once
// Rows of text in aligned columns: for a terminal (at most 100 columns wide) or as Markdown.
#include <string>
#include <vector>

#include "terminal.h"

namespace lowkey {

inline constexpr int kMaxTableWidth = 100;

class Table {
 public:
  enum class Align : uint8_t { kLeft, kRight };
  struct Column {
    std::string header;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns);

  // As many cells as columns. Cells are UTF-8 without escape sequences or line breaks.
  void add_row(std::vector<std::string> cells);

  // Two blanks between columns, the header in bold where colours are on. If the table is wider than
  // min(terminal.width, kMaxTableWidth) on a terminal, or kMaxTableWidth elsewhere, its widest
  // left-aligned columns are cut with "…"; numbers never are.
  std::string text(const Terminal& terminal) const;

  std::string markdown() const;

 private:
  std::vector<int> widths() const;
  void shrink(std::vector<int>& widths, int most) const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Recipes in a table: those too long for it become (a), (b), ... and are written out below.
class Legend {
 public:
  explicit Legend(size_t longest_label) : longest_(longest_label) {}
  std::string label(const std::string& text);
  const std::string& text() const { return text_; }  // a line per letter

 private:
  size_t longest_;
  char letter_ = 'a';
  std::string text_;
};

}  // namespace lowkey
