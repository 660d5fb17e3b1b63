#pragma once
// The command line: parsing, help, exit codes. Apart from main.cc so that tests can call it with
// verbs of their own.
#include <functional>
#include <ostream>

#include "verbs.h"

namespace lowkey {

// A verb that is not set is known but refused: builds without libtorch have only some.
struct Verbs {
  std::function<int(const RunOptions&)> run;
  std::function<int(const EvalOptions&)> eval;
  std::function<int(const BenchOptions&)> bench;
  std::function<int(const ProbeVerbOptions&)> probe;
  std::function<int(const TuneVerbOptions&)> tune;
  std::function<int(const CalibrateVerbOptions&)> calibrate;
  std::function<int(const PlanOptions&)> plan;
  std::function<int(const InspectOptions&)> inspect;
  std::function<int(const ConvertOptions&)> convert;
  std::function<int(const QuantizeVerbOptions&)> quantize;
};

inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;  // "lowkey: error: ..." on err, one line
inline constexpr int kExitUsage = 2;  // the command line itself is wrong

// Help and version go to `out`, complaints to `err`. Throws nothing.
int run_cli(int argc, const char* const* argv, const Verbs& verbs, std::ostream& out,
            std::ostream& err) noexcept;

}  // namespace lowkey
