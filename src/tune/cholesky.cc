#include "tune/cholesky.h"

#include <cmath>
#include <utility>

#include "core/error.h"

namespace lowkey::tune {

Cholesky::Cholesky(std::vector<double> matrix, size_t size)
    : lower_(std::move(matrix)), size_(size) {
  LOWKEY_CHECK(lower_.size() == size * size, "{} values for {} rows", lower_.size(), size);
  for (size_t row = 0; row < size; ++row) {
    double* mine = &lower_[row * size];
    for (size_t column = 0; column < row; ++column) {
      const double* other = &lower_[column * size];
      double value = mine[column];
      for (size_t k = 0; k < column; ++k) value -= mine[k] * other[k];
      mine[column] = value / other[column];
    }
    double pivot = mine[row];
    for (size_t k = 0; k < row; ++k) pivot -= mine[k] * mine[k];
    LOWKEY_CHECK(pivot > 0, "pivot {} in row {} of {}", pivot, row, size);
    mine[row] = std::sqrt(pivot);
  }
}

std::vector<double> Cholesky::solve(std::vector<double> rhs) const {
  LOWKEY_CHECK(rhs.size() == size_, "{} values for {} rows", rhs.size(), size_);
  for (size_t row = 0; row < size_; ++row) {
    for (size_t k = 0; k < row; ++k) rhs[row] -= lower_[row * size_ + k] * rhs[k];
    rhs[row] /= lower_[row * size_ + row];
  }
  for (size_t row = size_; row-- > 0;) {
    rhs[row] /= lower_[row * size_ + row];
    for (size_t k = 0; k < row; ++k) rhs[k] -= lower_[row * size_ + k] * rhs[row];
  }
  return rhs;
}

double Cholesky::log_determinant() const {
  double sum = 0;
  for (size_t row = 0; row < size_; ++row) sum += std::log(lower_[row * size_ + row]);
  return 2 * sum;
}

}  // namespace lowkey::tune
