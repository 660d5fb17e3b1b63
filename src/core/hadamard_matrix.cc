#include "core/hadamard_matrix.h"

#include <bit>
#include <cmath>

#include "core/error.h"

namespace lowkey {
namespace {

constexpr int64_t kMaxOrder = 1024;

// q = prime^degree.
struct PrimePower {
  int64_t prime;
  int64_t degree;
  int64_t q;
};

std::optional<PrimePower> prime_power(int64_t q) {
  if (q < 2) return std::nullopt;
  int64_t prime = 2;
  while (prime * prime <= q && q % prime != 0) ++prime;
  if (q % prime != 0) prime = q;
  PrimePower power{prime, 0, q};
  for (int64_t rest = q; rest > 1; rest /= prime, ++power.degree) {
    if (rest % prime != 0) return std::nullopt;
  }
  return power;
}

// A field's elements are polynomials of degree below `degree` over the integers mod `prime`,
// written as numbers in base `prime`.
int64_t difference(const PrimePower& f, int64_t a, int64_t b) {
  int64_t out = 0, unit = 1;
  for (int64_t i = 0; i < f.degree; ++i, unit *= f.prime, a /= f.prime, b /= f.prime) {
    out += unit * ((a % f.prime - b % f.prime + f.prime) % f.prime);
  }
  return out;
}

// a * x modulo the monic polynomial whose lower coefficients are the digits of `modulus`.
int64_t times_x(const PrimePower& f, int64_t a, int64_t modulus) {
  const int64_t top = f.q / f.prime;  // the unit of the highest digit
  const int64_t carried = a / top;
  int64_t out = 0, unit = 1;
  for (int64_t shifted = a % top * f.prime; unit < f.q;
       unit *= f.prime, shifted /= f.prime, modulus /= f.prime) {
    const int64_t digit = shifted % f.prime - carried * (modulus % f.prime) % f.prime;
    out += unit * ((digit + f.prime) % f.prime);
  }
  return out;
}

// 1 for squares of the field, -1 for other elements, 0 for 0. Squares are the even powers of an
// element that generates all, and x is one modulo the right polynomial.
std::vector<int8_t> quadratic_character(const PrimePower& f) {
  for (int64_t modulus = 1; modulus < f.q; ++modulus) {
    std::vector<int8_t> character(static_cast<size_t>(f.q), 0);
    int64_t element = 1, power = 0;
    do {
      character[static_cast<size_t>(element)] = power % 2 == 0 ? 1 : -1;
      element = times_x(f, element, modulus);
      ++power;
    } while (element > 1 && power < f.q);
    if (element == 1 && power == f.q - 1) return character;
  }
  check_failed(__FILE__, __LINE__, "a finite field has a primitive polynomial",
               fmt::format("q = {}", f.q));
}

// [q + 1, q + 1]: 0 on the diagonal, 1 and -1 elsewhere, C C^T = q I. Symmetric for q = 1 mod 4,
// skew for q = 3 mod 4.
std::vector<int8_t> conference_matrix(const PrimePower& f) {
  const std::vector<int8_t> character = quadratic_character(f);
  const int64_t order = f.q + 1;
  const int8_t below = f.q % 4 == 1 ? 1 : -1;
  std::vector<int8_t> c(static_cast<size_t>(order * order), 0);
  for (int64_t i = 1; i < order; ++i) {
    c[static_cast<size_t>(i)] = 1;
    c[static_cast<size_t>(i * order)] = below;
    for (int64_t j = 1; j < order; ++j) {
      c[static_cast<size_t>(i * order + j)] =
          character[static_cast<size_t>(difference(f, i - 1, j - 1))];
    }
  }
  return c;
}

std::optional<PrimePower> field_of_first(int64_t order) {
  return order % 4 == 0 ? prime_power(order - 1) : std::nullopt;
}

std::optional<PrimePower> field_of_second(int64_t order) {
  return order % 4 == 0 && order / 2 % 4 == 2 ? prime_power(order / 2 - 1) : std::nullopt;
}

}  // namespace

std::optional<int64_t> hadamard_order(int64_t size) {
  if (size < 1) return std::nullopt;
  if (std::has_single_bit(static_cast<uint64_t>(size))) return 1;
  const int64_t twos = int64_t{1} << std::countr_zero(static_cast<uint64_t>(size));
  for (int64_t part = 4; part <= twos && size / twos * part <= kMaxOrder; part *= 2) {
    const int64_t order = size / twos * part;
    if (field_of_first(order) || field_of_second(order)) return order;
  }
  return std::nullopt;
}

std::vector<int8_t> hadamard_matrix(int64_t order) {
  if (order == 1) return {1};
  if (const auto first = field_of_first(order)) {  // I + C
    std::vector<int8_t> h = conference_matrix(*first);
    for (int64_t i = 0; i < order; ++i) h[static_cast<size_t>(i * order + i)] = 1;
    return h;
  }
  const auto second = field_of_second(order);
  LOWKEY_CHECK(second.has_value(), "order {}", order);
  // Every 1 and -1 of C becomes that times (1 1; 1 -1), every 0 becomes (1 -1; -1 -1).
  const std::vector<int8_t> c = conference_matrix(*second);
  const int64_t half = order / 2;
  std::vector<int8_t> h(static_cast<size_t>(order * order));
  const auto put = [&](int64_t row, int64_t col, int sign) {
    h[static_cast<size_t>(row * order + col)] = static_cast<int8_t>(sign);
  };
  for (int64_t i = 0; i < half; ++i) {
    for (int64_t j = 0; j < half; ++j) {
      const int entry = c[static_cast<size_t>(i * half + j)];
      const bool zero = entry == 0;
      put(2 * i, 2 * j, zero ? 1 : entry);
      put(2 * i, 2 * j + 1, zero ? -1 : entry);
      put(2 * i + 1, 2 * j, zero ? -1 : entry);
      put(2 * i + 1, 2 * j + 1, zero ? -1 : -entry);
    }
  }
  return h;
}

HadamardRotation::HadamardRotation(int64_t size, const char* what) : size_(size) {
  const auto order = hadamard_order(size);
  if (!order) {
    fail(
        ErrorCode::kUnsupported,
        "no Hadamard matrix is known here for a {} of {}: it must be a power of two times an order "
        "that Paley's constructions have (12, 20, 28, 36, ...)",
        what, size);
  }
  order_ = *order;
  matrix_ = hadamard_matrix(order_);
}

void HadamardRotation::turn(std::span<double> x) const {
  LOWKEY_CHECK(std::ssize(x) == size_, "{} numbers for a rotation of {}", x.size(), size_);
  const auto n = static_cast<size_t>(size_), m = static_cast<size_t>(order_), power = n / m;
  for (size_t step = 1; step < power; step *= 2) {
    for (size_t block = 0; block < n; block += 2 * step) {
      for (size_t i = block; i < block + step; ++i) {
        const double a = x[i], b = x[i + step];
        x[i] = a + b;
        x[i + step] = a - b;
      }
    }
  }
  const double norm = 1.0 / std::sqrt(static_cast<double>(size_));
  std::vector<double> column(m);
  for (size_t p = 0; p < power; ++p) {
    for (size_t j = 0; j < m; ++j) column[j] = x[j * power + p];
    for (size_t i = 0; i < m; ++i) {
      const int8_t* const row = matrix_.data() + i * m;
      double sum = 0;
      for (size_t j = 0; j < m; ++j) sum += row[j] * column[j];
      x[i * power + p] = sum * norm;
    }
  }
}

}  // namespace lowkey
