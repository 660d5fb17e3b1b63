#include "model/model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string_view>

#include "core/checked.h"
#include "core/error.h"
#include "linear/elementwise.h"
#include "model/aten_ops.h"
#include "model/cache_attention.h"
#include "model/decoder_layer.h"
#include "model/native_ops.h"
#include "model/prefill_ops.h"
#include "model/rope.h"
#include "model/simulation.h"

namespace lowkey {
namespace {

// libtorch's errors as ours, without its stack trace.
template <typename Work>
void translate_errors(const Work& work) {
  try {
    work();
  } catch (const c10::Error& error) {
    const std::string_view what = error.what_without_backtrace();
    const bool memory = what.find("allocate memory") != std::string_view::npos;
    fail(memory ? ErrorCode::kResourceExhausted : ErrorCode::kUnsupported, "libtorch: {}",
         what.substr(0, what.find('\n')));
  }
}

// Logits that a thread claims at a time to cap them: some microseconds.
constexpr int64_t kCappedAtOnce = 8192;

int64_t native_rows_of(const ModelWeights& weights) {
  bool packed = false;
  for (const LayerWeights& layer : weights.layers) {
    for_each_linear(layer, [&](const Linear& linear) {
      packed |= linear.weight.layout() == WeightLayout::kStrips;
    });
  }
  return packed ? kNativeRows : kNativeFloatRows;
}

}  // namespace

struct Model::Impl {
  Impl(ModelWeights loaded, ThreadPool& threads)
      : pool(threads),
        weights(std::move(loaded)),
        rope(weights.config),
        attention(weights.config, pool),
        native(weights.config, kNativeRows, pool, attention),
        aten(weights.config, pool, attention),
        native_rows(native_rows_of(weights)),
        simulated(is_simulated(weights.config)) {
    if (!simulated && PrefillOps::suits(weights)) prefill.emplace(weights, pool, attention);
  }

  // Of a step; the head is no concern of a simulation.
  Backend step_backend(int64_t rows, Backend wanted) const {
    if (!simulated) return backend_for(rows, wanted);
    LOWKEY_CHECK(wanted == Backend::kAuto || wanted == Backend::kAten, "simulated on ATen alone");
    return Backend::kAten;
  }

  Backend backend_for(int64_t rows, Backend wanted) const {
    LOWKEY_CHECK(wanted != Backend::kNative || rows <= kNativeRows, "{} rows natively", rows);
    LOWKEY_CHECK(wanted != Backend::kPrefill || prefill, "prefill in bf16 does not suit");
    if (wanted != Backend::kAuto) return wanted;
    if (rows <= native_rows) return Backend::kNative;
    return prefill ? Backend::kPrefill : Backend::kAten;
  }

  void cap_logits(float* logits, int64_t count) {
    const auto cap = static_cast<float>(weights.config.logit_softcap);
    if (cap == 0) return;
    const auto job = [&](int64_t task, int) {
      const int64_t first = task * kCappedAtOnce;
      softcap(logits + first, std::min(kCappedAtOnce, count - first), cap);
    };
    pool.run(ceil_div(count, kCappedAtOnce), std::ref(job));  // a copy would allocate
  }

  ThreadPool& pool;
  ModelWeights weights;
  RopeTables rope;
  StepRows step;
  CacheAttention attention;
  NativeOps native;
  std::optional<PrefillOps> prefill;
  AtenOps aten;
  int64_t native_rows;
  bool simulated;  // on AtenOps alone: simulation.h
};

Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::load(const ModelFile& file, WeightStorage storage, ThreadPool& pool,
                  const ProgressFn& progress) {
  return Model(load_weights(file, storage, pool, progress), pool);
}

Model::Model(ModelWeights weights, ThreadPool& pool) {
  at::set_num_threads(1);  // on every thread of the pool, which does the sharing out: AtenOps
  impl_ = std::make_unique<Impl>(std::move(weights), pool);
}

const ModelConfig& Model::config() const {
  return impl_->weights.config;
}

const ModelWeights& Model::weights() const {
  return impl_->weights;
}

int64_t Model::prefill_bytes() const {
  return impl_->prefill ? impl_->prefill->packed_bytes() : 0;
}

void Model::forward(std::span<const StepItem> items, float* hidden, const ForwardOptions& options) {
  Impl& m = *impl_;
  LOWKEY_CHECK(options.first_layer == 0 || options.residual != nullptr, "nothing to resume with");
  LOWKEY_CHECK(options.first_layer >= 0 && options.first_layer < m.weights.config.num_layers);
  m.step.assign(items, m.weights.config, m.rope, options.first_layer);
  if (items.empty()) return;
  const auto wanted = m.step.wanted_rows();
  LOWKEY_CHECK(hidden != nullptr || wanted.empty(), "{} rows wanted, but nowhere to put them",
               wanted.size());
  const auto run_on = [&](auto& ops) {
    ops.begin(m.step);
    const auto rows = transformer(ops, m.weights, m.step, options);
    std::copy_n(rows.data(), rows.count(), hidden);
  };
  switch (m.step_backend(m.step.num_rows(), options.backend)) {
    case Backend::kNative: return run_on(m.native);
    case Backend::kPrefill: return run_on(*m.prefill);
    default: break;
  }
  translate_errors([&] {
    const c10::InferenceMode inference;
    m.aten.begin(m.step);
    const at::Tensor rows = transformer(m.aten, m.weights, m.step, options).contiguous();
    std::copy_n(rows.const_data_ptr<float>(), rows.numel(), hidden);
  });
}

void Model::logits(const float* hidden, int64_t rows, float* out, Backend backend) {
  Impl& m = *impl_;
  if (m.backend_for(rows, backend) == Backend::kNative) {
    m.native.logits(m.weights.head(), hidden, rows, out);
  } else {
    translate_errors([&] {
      const c10::InferenceMode inference;
      m.aten.logits(m.weights.head(), hidden, rows, out);
    });
  }
  m.cap_logits(out, rows * m.weights.head().rows());
}

}  // namespace lowkey
