#pragma once
// Linear systems as small as a search has trials. Torch-free.
#include <cstddef>
#include <vector>

namespace lowkey::tune {

// The lower factor of a symmetric positive definite matrix.
class Cholesky {
 public:
  // matrix: [size, size], row-major; only its lower triangle is read.
  Cholesky(std::vector<double> matrix, size_t size);

  // x with matrix * x = rhs.
  std::vector<double> solve(std::vector<double> rhs) const;
  // Of the matrix.
  double log_determinant() const;

 private:
  std::vector<double> lower_;
  size_t size_;
};

}  // namespace lowkey::tune
