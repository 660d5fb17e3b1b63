// libtorch's scaled_dot_product_attention in bfloat16 as a peer of bench/attention/peers.py, which
// cannot ask a Python package for it: the wheel that we have is libtorch alone. Answers lines of
// JSON on standard input (bench/worker.py): about, prepare, error, time.
//
//   sdpa_peer heads|rows MEGABYTES THREADS
//
// heads: query heads as heads, torch repeats the KV heads. rows: the query heads of a KV head as
// query rows of one head, which reads keys and values once.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/headeronly/version.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace {

using Json = nlohmann::json;

class Sdpa {
 public:
  Sdpa(bool rows, int64_t min_bytes) : rows_(rows), min_bytes_(min_bytes) {}

  Json answer(const Json& request) {
    const std::string operation = request.at("operation");
    if (operation == "about") {
      return {{"engine", "libtorch " TORCH_VERSION " scaled_dot_product_attention"},
              {"isa", at::get_cpu_capability()}};
    }
    if (operation == "prepare") {
      return prepare(request.at("num_kv_heads"), request.at("tokens"), request.at("head_dim"));
    }
    if (operation == "error") return error(request.at("gqa"));
    if (operation == "time") return time(request.at("gqa"), request.at("seconds"));
    throw std::invalid_argument("no such operation: " + operation);
  }

 private:
  Json prepare(int64_t num_kv_heads, int64_t tokens, int64_t head_dim) {
    num_kv_heads_ = num_kv_heads;
    head_dim_ = head_dim;
    const int64_t bytes = 2 * num_kv_heads * tokens * head_dim * 2;  // K and V, two bytes each
    const at::Tensor k = at::randn({1, num_kv_heads, tokens, head_dim}).to(at::kBFloat16);
    const at::Tensor v = at::randn({1, num_kv_heads, tokens, head_dim}).to(at::kBFloat16);
    for (int64_t held = 0; held < min_bytes_; held += bytes) {
      copies_.emplace_back(k.clone(), v.clone());
    }
    return {{"bytes_per_step", bytes}};
  }

  // [1, num_kv_heads, gqa, head_dim]; twice the usual size, so that the softmax is no mere average.
  at::Tensor query(int64_t gqa) const {
    return (2 * at::randn({1, num_kv_heads_, gqa, head_dim_})).to(at::kBFloat16);
  }

  at::Tensor step(const at::Tensor& q) {
    const auto& [k, v] = copies_[next_];
    next_ = (next_ + 1) % copies_.size();
    const double scale = 1 / std::sqrt(static_cast<double>(head_dim_));
    if (rows_) return at::scaled_dot_product_attention(q, k, v, {}, 0, false, scale);
    const at::Tensor heads = q.view({1, num_kv_heads_ * q.size(2), 1, head_dim_});
    return at::scaled_dot_product_attention(heads, k, v, {}, 0, false, scale, true).view(q.sizes());
  }

  double error(int64_t gqa) {
    const at::Tensor q = query(gqa);
    const at::Tensor found = step(q).to(at::kDouble);
    const at::Tensor k = copies_[0].first.to(at::kDouble), v = copies_[0].second.to(at::kDouble);
    const double scale = 1 / std::sqrt(static_cast<double>(head_dim_));
    const at::Tensor expected =
        at::softmax(at::matmul(q.to(at::kDouble), k.transpose(-2, -1)) * scale, -1).matmul(v);
    return ((found - expected).norm() / expected.norm()).item<double>();
  }

  Json time(int64_t gqa, double seconds) {
    using Clock = std::chrono::steady_clock;
    const at::Tensor q = query(gqa);
    step(q);
    Json times = Json::array();
    for (double spent = 0; spent < seconds;) {
      const auto start = Clock::now();
      step(q);
      const std::chrono::duration<double> took = Clock::now() - start;
      times.push_back(took.count());
      spent += took.count();
    }
    return times;
  }

  bool rows_;
  int64_t min_bytes_;
  int64_t num_kv_heads_ = 0, head_dim_ = 0;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_;
  size_t next_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string style = argc == 4 ? argv[1] : "";
  if (style != "heads" && style != "rows") {
    std::cerr << "sdpa_peer: heads|rows MEGABYTES THREADS\n";
    return 2;
  }
  at::set_num_threads(std::atoi(argv[3]));
  Sdpa sdpa(style == "rows", std::atoll(argv[2]) << 20);
  for (std::string line; std::getline(std::cin, line);) {
    Json answer;
    try {
      answer["result"] = sdpa.answer(Json::parse(line));
    } catch (const std::exception& error) {
      answer = {{"error", error.what()}};
    }
    std::cout << answer.dump() << std::endl;
  }
}
