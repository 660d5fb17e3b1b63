#include "table.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace lowkey {
namespace {

constexpr int kGap = 2;
constexpr int kNarrowest = 8;  // no column is cut below this

std::string pad(const std::string& text, int width, Table::Align align) {
  const std::string blanks(static_cast<size_t>(std::max(0, width - text_width(text))), ' ');
  return align == Table::Align::kRight ? blanks + text : text + blanks;
}

std::string escape_markdown(const std::string& cell) {
  std::string out;
  for (const char c : cell) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::add_row(std::vector<std::string> cells) {
  LOWKEY_CHECK(cells.size() == columns_.size(), "{} cells for {} columns", cells.size(),
               columns_.size());
  rows_.push_back(std::move(cells));
}

std::vector<int> Table::widths() const {
  std::vector<int> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    int width = text_width(columns_[i].header);
    for (const auto& row : rows_) width = std::max(width, text_width(row[i]));
    widths.push_back(width);
  }
  return widths;
}

void Table::shrink(std::vector<int>& widths, int most) const {
  int total = std::accumulate(widths.begin(), widths.end(), 0) +
              kGap * (static_cast<int>(widths.size()) - 1);
  for (; total > most; --total) {
    int* widest = nullptr;
    for (size_t i = 0; i < widths.size(); ++i) {
      if (columns_[i].align == Align::kLeft && (!widest || widths[i] > *widest))
        widest = &widths[i];
    }
    if (!widest || *widest <= kNarrowest) return;
    --*widest;
  }
}

std::string Table::text(const Terminal& terminal) const {
  std::vector<int> column_widths = widths();
  shrink(column_widths, terminal.tty ? std::min(terminal.width, kMaxTableWidth) : kMaxTableWidth);
  const auto print = [&](const auto& cell_of) {
    std::string line;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) line.append(kGap, ' ');
      line += pad(fit(cell_of(i), column_widths[i]), column_widths[i], columns_[i].align);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    return line;
  };
  std::string out =
      paint(terminal, Ink::kBold, print([&](size_t i) { return columns_[i].header; })) + "\n";
  for (const auto& row : rows_) out += print([&](size_t i) { return row[i]; }) + "\n";
  return out;
}

std::string Table::markdown() const {
  Table escaped(columns_);
  for (Column& column : escaped.columns_) column.header = escape_markdown(column.header);
  for (const auto& row : rows_) {
    std::vector<std::string> cells;
    for (const std::string& cell : row) cells.push_back(escape_markdown(cell));
    escaped.add_row(std::move(cells));
  }
  const std::vector<int> column_widths = escaped.widths();
  const auto print = [&](const auto& cell_of) {
    std::string line = "|";
    for (size_t i = 0; i < columns_.size(); ++i) {
      line += fmt::format(" {} |", pad(cell_of(i), column_widths[i], columns_[i].align));
    }
    return line + "\n";
  };
  std::string out = print([&](size_t i) { return escaped.columns_[i].header; });
  out += "|";
  for (size_t i = 0; i < columns_.size(); ++i) {
    const std::string rule(static_cast<size_t>(column_widths[i] + 1), '-');
    out += columns_[i].align == Align::kRight ? rule + ":|" : rule + "-|";
  }
  out += "\n";
  for (const auto& row : escaped.rows_) out += print([&](size_t i) { return row[i]; });
  return out;
}

std::string Legend::label(const std::string& text) {
  if (text.size() <= longest_) return text;
  std::string label = fmt::format("({})", letter_);
  text_ += fmt::format("{} {}\n", label, text);
  letter_ = letter_ == 'z' ? 'A' : static_cast<char>(letter_ + 1);
  return label;
}

}  // namespace lowkey
