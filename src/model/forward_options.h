#pragma once
// How a step is run when it is not simply run: watched, or resumed in the middle of the model.
// Torch-free.
#include <cstdint>

namespace lowkey {

// Which implementation a step runs on: for tests and benches that compare them.
enum class Backend : uint8_t { kAuto, kNative, kPrefill, kAten };

// Is shown what passes through a step; for those who measure. Rows are the step's, items in order;
// pointers are valid during the call.
class StepWatcher {
 public:
  virtual ~StepWatcher() = default;

  // The residual stream [rows, hidden_size] before `layer`; for layer == num_layers, after the last
  // layer: the wanted rows alone.
  virtual void residual(int32_t layer, const float* x, int64_t rows);
  // What attention is given: q [rows, num_qo_heads, head_dim], k and v [rows, num_kv_heads,
  // head_dim]; q and k after RoPE, nothing rounded yet. Not called for a last layer whose results
  // nobody wants.
  virtual void attention(int32_t layer, const float* q, const float* k, const float* v,
                         int64_t rows);
};

inline void StepWatcher::residual(int32_t, const float*, int64_t) {}
inline void StepWatcher::attention(int32_t, const float*, const float*, const float*, int64_t) {}

struct ForwardOptions {
  Backend backend = Backend::kAuto;
  StepWatcher* watcher = nullptr;
  // Above 0: layers before it are skipped, and `residual` [rows, hidden_size] is what they would
  // have made of the tokens. The sequences then hold nothing in those layers and must always be
  // resumed at this one.
  int32_t first_layer = 0;
  const float* residual = nullptr;
};

}  // namespace lowkey
