#include "model/model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "model/aten_ops.h"
#include "model/cache_attention.h"
#include "model/decoder_layer.h"
#include "model/native_ops.h"
#include "model/prefill_ops.h"
#include "model/rope.h"

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

int64_t native_rows_of(const ModelWeights& weights) {
  const bool packed =
      std::any_of(weights.layers.begin(), weights.layers.end(), [](const LayerWeights& layer) {
        return layer.gate.weight.layout() == WeightLayout::kStrips;
      });
  return packed ? kNativeRows : kNativeFloatRows;
}

}  // namespace

struct Model::Impl {
  Impl(ModelWeights loaded, ThreadPool& pool)
      : weights(std::move(loaded)),
        rope(weights.config.rope),
        attention(weights.config, pool),
        native(weights.config, kNativeRows, pool, attention),
        aten(weights.config, pool, attention),
        native_rows(native_rows_of(weights)) {
    if (PrefillOps::suits(weights)) prefill.emplace(weights, pool, attention);
  }

  Backend backend_for(int64_t rows, Backend wanted) const {
    LOWKEY_CHECK(wanted != Backend::kNative || rows <= kNativeRows, "{} rows natively", rows);
    LOWKEY_CHECK(wanted != Backend::kPrefill || prefill, "prefill in bf16 does not suit");
    if (wanted != Backend::kAuto) return wanted;
    if (rows <= native_rows) return Backend::kNative;
    return prefill ? Backend::kPrefill : Backend::kAten;
  }

  ModelWeights weights;
  RopeFrequencies rope;
  StepRows step;
  CacheAttention attention;
  NativeOps native;
  std::optional<PrefillOps> prefill;
  AtenOps aten;
  int64_t native_rows;
};

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::load(const ModelFile& file, WeightStorage storage, ThreadPool& pool,
                  const ProgressFn& progress) {
  at::set_num_threads(1);  // on every thread of the pool, which does the sharing out: AtenOps
  return Model(std::make_unique<Impl>(load_weights(file, storage, pool, progress), pool));
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
  const auto tokens = m.step.tokens();
  const auto wanted = m.step.wanted_rows();
  LOWKEY_CHECK(hidden != nullptr || wanted.empty(), "{} rows wanted, but nowhere to put them",
               wanted.size());
  const auto run_on = [&](auto& ops) {
    ops.begin(m.step);
    const auto rows = transformer(ops, m.weights, tokens, wanted, options);
    std::copy_n(rows.data(), rows.count(), hidden);
  };
  switch (m.backend_for(m.step.num_rows(), options.backend)) {
    case Backend::kNative: return run_on(m.native);
    case Backend::kPrefill: return run_on(*m.prefill);
    default: break;
  }
  translate_errors([&] {
    const c10::InferenceMode inference;
    m.aten.begin(m.step);
    const at::Tensor rows = transformer(m.aten, m.weights, tokens, wanted, options).contiguous();
    std::copy_n(rows.const_data_ptr<float>(), rows.numel(), hidden);
  });
}

void Model::logits(const float* hidden, int64_t rows, float* out, Backend backend) {
  Impl& m = *impl_;
  if (m.backend_for(rows, backend) == Backend::kNative) {
    m.native.logits(m.weights.head(), hidden, rows, out);
    return;
  }
  translate_errors([&] {
    const c10::InferenceMode inference;
    m.aten.logits(m.weights.head(), hidden, rows, out);
  });
}

}  // namespace lowkey
