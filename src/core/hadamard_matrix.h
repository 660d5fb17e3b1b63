#pragma once
// Hadamard matrices of orders that are no power of two, and the rotation y = H x / sqrt(n) they are
// for: hidden sizes such as 576 = 36 * 16. Constructed (Paley 1933), not tabulated. Torch-free,
// thread-safe.
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace lowkey {

// The smallest order m with size = m * 2^k that a matrix is constructed for here: 1, or q + 1 for a
// prime power q = 3 mod 4, or 2 (q + 1) for one of 1 mod 4; at most 1024. Nothing for other sizes.
std::optional<int64_t> hadamard_order(int64_t size);

// Such a matrix: [order, order] of 1 and -1, row-major, H H^T = order * I. `order` as
// hadamard_order gives it.
std::vector<int8_t> hadamard_matrix(int64_t order);

// Turns vectors by H / sqrt(size), H = hadamard_matrix(m) (x) Sylvester's of 2^k. Two vectors that
// are both turned keep their product: weights and what they are multiplied by.
class HadamardRotation {
 public:
  // Throws Error kUnsupported for a size hadamard_order has nothing for; `what` names it ("hidden
  // size").
  HadamardRotation(int64_t size, const char* what);

  int64_t size() const { return size_; }
  // x [size], in place.
  void turn(std::span<double> x) const;

 private:
  int64_t size_;
  int64_t order_;
  std::vector<int8_t> matrix_;  // [order, order]
};

}  // namespace lowkey
