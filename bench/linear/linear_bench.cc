// The matrices of a decode step from DRAM: how near products with one row of inputs come to a plain
// read of memory, and what more rows cost, in one run with the arms interleaved.
//
//   linear_bench [--threads N] [--megabytes N] [--rounds N] [--rows N,N] [--only TEXT] [--json
//   FILE]
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "attention/stream_read.h"
#include "core/error.h"
#include "core/files.h"
#include "core/half.h"
#include "core/rng.h"
#include "linear/matmul.h"
#include "options.h"

namespace lowkey::bench {
namespace {

struct Shape {
  const char* name;
  int64_t rows, cols;
};

// SmolLM2-135M's, and one of Llama-2-7B's.
constexpr Shape kShapes[] = {{"o", 576, 576},
                             {"gate", 1536, 576},
                             {"down", 576, 1536},
                             {"head", 49152, 576},
                             {"7b-gate", 11008, 4096}};

struct Arm {
  DType dtype;
  WeightStorage storage;
};

constexpr Arm kArms[] = {
    {DType::kQ4_0, WeightStorage::kPacked}, {DType::kQ4_1, WeightStorage::kPacked},
    {DType::kQ5_0, WeightStorage::kPacked}, {DType::kQ5_1, WeightStorage::kPacked},
    {DType::kQ8_0, WeightStorage::kPacked}, {DType::kQ4_K, WeightStorage::kPacked},
    {DType::kQ5_K, WeightStorage::kPacked}, {DType::kQ6_K, WeightStorage::kPacked},
    {DType::kQ4_1, WeightStorage::kFile},   {DType::kBF16, WeightStorage::kBF16}};

// The fastest of so many runs through a tenth of the memory is taken: other work on the machine
// comes in bursts.
constexpr int64_t kParts = 10;

struct Options {
  int threads = 0;
  int64_t megabytes = 512;
  int rounds = 12;
  std::vector<int64_t> rows = {1};
  std::string only;  // "Q4_1 packed gate" must contain this
  std::string json;
};

Options parse_options(int argc, char** argv) {
  Options options;
  for_each_option(argc, argv, [&](std::string_view name, std::string_view value) {
    const auto whole = [&] { return number<int64_t>(name, value); };
    if (name == "--threads") {
      options.threads = static_cast<int>(whole());
    } else if (name == "--megabytes") {
      options.megabytes = whole();
    } else if (name == "--rounds") {
      options.rounds = static_cast<int>(std::max<int64_t>(1, whole()));
    } else if (name == "--rows") {
      options.rows = numbers(name, value);
      for (int64_t& rows : options.rows) rows = std::max<int64_t>(1, rows);
    } else if (name == "--only") {
      options.only = value;
    } else if (name == "--json") {
      options.json = value;
    } else {
      fail(ErrorCode::kInvalidArgument, "{}: no such option", name);
    }
  });
  return options;
}

// As many copies of one matrix as fill `min_bytes`: each product reads one that has left the
// caches.
class Matrices {
 public:
  Matrices(const Arm& arm, const Shape& shape, int64_t min_bytes, ThreadPool& pool)
      : shape_(shape) {
    TensorView view;
    view.name = shape.name;
    view.dtype = arm.dtype;
    view.shape = {shape.rows, shape.cols};
    // Any bytes are codes; scales of 0x2c2c are 0.065 as halves and 2.4e-12 as bfloat16.
    std::vector<std::byte> bytes(static_cast<size_t>(shape.rows * view.row_bytes()),
                                 std::byte{0x2c});
    WeightArena arena;
    while (total_bytes_ < min_bytes) {
      copies_.push_back(bytes);
      view.data = copies_.back();
      matrices_.push_back(make_weight(view, arm.storage, pool, arena));
      if (matrices_.back().owned_bytes() > 0) copies_.pop_back();  // not what is read
      total_bytes_ += matrices_.back().row_bytes() * shape.rows;
    }
  }

  int64_t count() const { return std::ssize(matrices_); }
  int64_t matrix_bytes() const { return total_bytes_ / count(); }

  // Seconds per product, of the fastest part.
  double seconds(int64_t num_rows, ThreadPool& pool, MatmulScratch& scratch) const {
    const std::vector<float> x(static_cast<size_t>(num_rows * shape_.cols), 0.5f);
    std::vector<float> y(static_cast<size_t>(num_rows * shape_.rows));
    const int64_t per_run = std::max<int64_t>(1, count() / kParts);
    double best = 0;
    for (int64_t first = 0; first + per_run <= count(); first += per_run) {
      const double start = now_seconds();
      for (int64_t i = first; i < first + per_run; ++i) {
        const MatmulOutput output{&matrices_[static_cast<size_t>(i)], nullptr, y.data()};
        matmul({x.data(), num_rows, {&output, 1}}, pool, scratch);
      }
      const double seconds = (now_seconds() - start) / static_cast<double>(per_run);
      best = best == 0 ? seconds : std::min(best, seconds);
    }
    return best;
  }

 private:
  Shape shape_;
  std::vector<std::vector<std::byte>> copies_;  // what borrowing matrices read
  std::vector<WeightMatrix> matrices_;
  int64_t total_bytes_ = 0;
};

void run(const Options& options) {
  ThreadPool pool(options.threads);
  MatmulScratch scratch;
  WeightArena arena;
  const int64_t bytes = options.megabytes << 20;
  const auto stream = arena.allocate(bytes);
  std::memset(stream.get(), 1, static_cast<size_t>(bytes));
  // Of the fastest of ten parts, as the products are.
  const auto stream_bytes_per_s = [&] {
    const auto part = static_cast<size_t>(bytes / kParts / 4096 * 4096);
    double best = 0;
    for (size_t i = 0; i < kParts; ++i) {
      const double seconds = stream_read_seconds({stream.get() + i * part, part}, pool);
      best = std::max(best, static_cast<double>(part) / seconds);
    }
    return best;
  };

  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  fmt::print("{} kernels, {} threads\n{:<7} {:<7} {:<14} {:>4} {:>8} {:>7} {:>7} {:>8}\n",
             isa_name(active_isa()), pool.num_threads(), "type", "weights", "matrix", "rows", "us",
             "GB/s", "stream", "GMAC/s");
  for (const Shape& shape : kShapes) {
    for (const Arm& arm : kArms) {
      if (shape.cols % dtype_block_elements(arm.dtype) != 0) continue;
      const std::string name = fmt::format("{} {} {}", dtype_name(arm.dtype),
                                           weight_storage_name(arm.storage), shape.name);
      if (name.find(options.only) == std::string::npos) continue;
      const Matrices matrices(arm, shape, bytes, pool);
      for (int64_t num_rows : options.rows) {
        double best = 0, stream_best = 0;
        for (int round = 0; round < options.rounds; ++round) {
          stream_best = std::max(stream_best, stream_bytes_per_s());
          const double seconds = matrices.seconds(num_rows, pool, scratch);
          best = best == 0 ? seconds : std::min(best, seconds);
        }
        const double rate = static_cast<double>(matrices.matrix_bytes()) / best;
        const double macs = static_cast<double>(shape.rows * shape.cols * num_rows) / best;
        fmt::print("{:<7} {:<7} {:<14} {:>4} {:>8.1f} {:>7.1f} {:>6.0f}% {:>8.1f}\n",
                   dtype_name(arm.dtype), weight_storage_name(arm.storage),
                   fmt::format("{} {}x{}", shape.name, shape.rows, shape.cols), num_rows,
                   best * 1e6, rate / 1e9, 100 * rate / stream_best, macs / 1e9);
        std::fflush(stdout);
        rows.push_back({{"type", dtype_name(arm.dtype)},
                        {"weights", weight_storage_name(arm.storage)},
                        {"rows", shape.rows},
                        {"cols", shape.cols},
                        {"inputs", num_rows},
                        {"threads", pool.num_threads()},
                        {"isa", isa_name(active_isa())},
                        {"us", best * 1e6},
                        {"gb_per_s", rate / 1e9},
                        {"share_of_stream", rate / stream_best},
                        {"gmac_per_s", macs / 1e9}});
      }
    }
  }
  if (!options.json.empty()) write_file_atomically(options.json, rows.dump(2) + "\n");
}

}  // namespace
}  // namespace lowkey::bench

int main(int argc, char** argv) {
  using namespace lowkey::bench;
  return main_of("linear_bench", [&] { run(parse_options(argc, argv)); });
}
