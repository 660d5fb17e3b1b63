#include "weights/gptq.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"
#include "weights/layer_inputs.h"

namespace lowkey {
namespace {

constexpr int64_t kBlockColumns = 128;  // rounded before the rest of the row hears of it
constexpr int64_t kRowsAtOnce = 64;

// Whole groups, about kBlockColumns of them: a group's range is taken of weights that know of all
// losses before it.
int64_t block_columns(const WeightGrid& grid, int64_t cols) {
  const int64_t group = grid.group_size(cols);
  if (group == cols) return kBlockColumns;
  return group >= kBlockColumns ? group : kBlockColumns / group * group;
}

// The upper factor of the inverse of the damped gram: row i is what column i's loss does to those
// after it, times its own diagonal.
at::Tensor upper_factor(const at::Tensor& gram, double damping) {
  at::Tensor h = gram.to(at::kDouble);
  if (!at::isfinite(h).all().item<bool>()) {
    fail(ErrorCode::kNumeric, "GPTQ: the calibration text gives inputs that are not finite");
  }
  at::Tensor diagonal = h.diagonal();  // a view
  const double mean = diagonal.mean().item<double>();
  diagonal.masked_fill_(diagonal == 0, mean > 0.0 ? mean : 1.0);
  // More of it where rounding has left gram indefinite.
  for (double factor = damping; factor < 1e3; factor *= 10.0) {
    const at::Tensor damped =
        h + at::eye(h.size(0), at::kDouble) * (factor * (mean > 0.0 ? mean : 1.0));
    const auto [lower, info] = at::linalg_cholesky_ex(damped);
    if (info.item<int>() != 0) continue;
    return at::linalg_cholesky(at::cholesky_inverse(lower), /*upper=*/true);
  }
  fail(ErrorCode::kNumeric, "GPTQ: no damping makes the inputs' second moments definite");
}

// Rows of a matrix on their way to codes: floats in the order in which columns are rounded.
class RowRounder {
 public:
  RowRounder(const WeightGrid& grid, const at::Tensor& factor, std::vector<int64_t> order,
             bool static_groups, BlockMatrix& out)
      : grid_(grid),
        factor_(factor),
        order_(std::move(order)),
        static_groups_(static_groups),
        out_(out) {}

  // weight: [rows, cols] from row `first` on, in the matrix's own order.
  void round(int64_t first, const at::Tensor& weight) const {
    const int64_t rows = weight.size(0), cols = weight.size(1);
    const int64_t groups = grid_.num_groups(cols);
    at::Tensor ordered = weight.index_select(1, order_tensor()).contiguous();
    std::vector<GroupParams> params(static_cast<size_t>(rows * groups));
    if (static_groups_) set_all_params(weight.contiguous(), params);
    std::vector<int32_t> codes(static_cast<size_t>(rows * cols));
    const int64_t block = block_columns(grid_, cols);
    for (int64_t begin = 0; begin < cols; begin += block) {
      const int64_t end = std::min(cols, begin + block);
      at::Tensor losses = at::empty({rows, end - begin}, at::kFloat);
      for (int64_t r = 0; r < rows; ++r) {
        round_block(begin, end, ordered.mutable_data_ptr<float>() + r * cols,
                    params.data() + r * groups, codes.data() + r * cols,
                    losses.mutable_data_ptr<float>() + r * (end - begin));
      }
      if (end == cols) break;
      ordered.narrow(1, end, cols - end)
          .addmm_(losses, factor_.narrow(0, begin, end - begin).narrow(1, end, cols - end), 1, -1);
    }
    for (int64_t r = 0; r < rows; ++r) {
      write_blocks(grid_, {codes.data() + r * cols, static_cast<size_t>(cols)},
                   {params.data() + r * groups, static_cast<size_t>(groups)}, out_, first + r);
    }
  }

 private:
  at::Tensor order_tensor() const {
    return at::from_blob(const_cast<int64_t*>(order_.data()), {std::ssize(order_)}, at::kLong);
  }

  void set_all_params(const at::Tensor& weight, std::vector<GroupParams>& params) const {
    const int64_t cols = weight.size(1), group = grid_.group_size(cols);
    const int64_t groups = grid_.num_groups(cols);
    for (int64_t r = 0; r < weight.size(0); ++r) {
      const float* const row = weight.const_data_ptr<float>() + r * cols;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = g * group, count = std::min(group, cols - begin);
        params[static_cast<size_t>(r * groups + g)] =
            params_of(grid_, {row + begin, static_cast<size_t>(count)});
      }
    }
  }

  // Columns [begin, end) of one row; `row` is changed from `begin` to `end`.
  void round_block(int64_t begin, int64_t end, float* row, GroupParams* params, int32_t* codes,
                   float* losses) const {
    const int64_t cols = factor_.size(0), group = grid_.group_size(cols);
    const float* const factor = factor_.const_data_ptr<float>();
    for (int64_t i = begin; i < end; ++i) {
      const int64_t col = order_[static_cast<size_t>(i)];
      if (!static_groups_ && i % group == 0) {
        params[i / group] =
            params_of(grid_, {row + i, static_cast<size_t>(std::min(group, cols - i))});
      }
      const GroupParams& own = params[col / group];
      const int32_t code = encode_weight(grid_, own, row[i]);
      codes[col] = code;
      const float* const spread = factor + i * cols;
      const float loss = (row[i] - decode_weight(own, code)) / spread[i];
      losses[i - begin] = loss;
      for (int64_t j = i + 1; j < end; ++j) row[j] -= loss * spread[j];
    }
  }

  const WeightGrid& grid_;
  at::Tensor factor_;  // float32 [cols, cols], in the order
  std::vector<int64_t> order_;
  bool static_groups_;
  BlockMatrix& out_;
};

}  // namespace

BlockMatrix gptq(const WeightGrid& grid, const at::Tensor& weight, const at::Tensor& gram,
                 const GptqOptions& options, ThreadPool& pool) {
  at::set_num_threads(1);  // on every thread of the pool, which does the sharing out
  const c10::NoGradGuard no_grad;
  const int64_t rows = weight.size(0), cols = weight.size(1);
  std::vector<int64_t> order(static_cast<size_t>(cols));
  std::iota(order.begin(), order.end(), int64_t{0});
  at::Tensor ordered_gram = gram;
  if (options.act_order) {
    const at::Tensor diagonal = gram.diagonal().contiguous();
    const float* const energy = diagonal.const_data_ptr<float>();
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return energy[a] > energy[b]; });
    const at::Tensor index = at::from_blob(order.data(), {cols}, at::kLong);
    ordered_gram = gram.index_select(0, index).index_select(1, index);
  }
  const at::Tensor factor = upper_factor(ordered_gram, options.damping).to(at::kFloat).contiguous();
  BlockMatrix blocks(grid.dtype(), rows, cols);
  const RowRounder rounder(grid, factor, std::move(order), options.act_order, blocks);
  pool.run(ceil_div(rows, kRowsAtOnce), [&](int64_t task, int) {
    at::init_num_threads();
    const c10::NoGradGuard inner;
    const int64_t first = task * kRowsAtOnce;
    rounder.round(first, weight.narrow(0, first, std::min(kRowsAtOnce, rows - first)));
  });
  return blocks;
}

void gptq_weights(Quantization& q) {
  LayerRunner runner(q.model, q.options.samples, q.pool);
  const int32_t layers = q.model.config.num_layers;
  for (int32_t layer = 0; layer < layers; ++layer) {
    const ProgressFn samples_done = layer_progress(q, fmt::format("layer {}", layer), layer);
    for (const LayerInputs& inputs : runner.inputs(samples_done)) {
      for (const std::string& name : inputs.linears) {
        const FloatTensor& tensor = q.model.tensor(name);
        if (!grid_fits(tensor.cols()) || q.blocks.contains(name)) continue;
        if (inputs.rows == 0) {
          q.notes.push_back(
              fmt::format("{}: no token of the text came by: rounded to nearest", name));
          put_blocks(q, name,
                     round_to_nearest(q.options.grid, tensor.values.data(), tensor.rows(),
                                      tensor.cols(), q.pool));
          continue;
        }
        put_blocks(q, name,
                   gptq(q.options.grid, matrix_view(tensor), inputs.gram, GptqOptions{}, q.pool),
                   &inputs.gram);
        decode_blocks(q.blocks.at(name), q.model.edit(name).values.data(), q.pool);
      }
    }
    if (layer + 1 < layers) runner.advance();
  }
}

}  // namespace lowkey
