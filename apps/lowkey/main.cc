#include <iostream>

#include "cli.h"

int main(int argc, char** argv) {
  lowkey::Verbs verbs;
  verbs.plan = lowkey::plan_verb;
  verbs.inspect = lowkey::inspect_verb;
  verbs.convert = lowkey::convert_verb;
#ifdef LOWKEY_HAVE_RUN
  verbs.run = lowkey::run_verb;
#endif
#ifdef LOWKEY_HAVE_EVAL
  verbs.eval = lowkey::eval_verb;
#endif
#ifdef LOWKEY_HAVE_BENCH
  verbs.bench = lowkey::bench_verb;
#endif
#ifdef LOWKEY_HAVE_PROBE
  verbs.probe = lowkey::probe_verb;
#endif
#ifdef LOWKEY_HAVE_QUANTIZE
  verbs.quantize = lowkey::quantize_verb;
#endif
#ifdef LOWKEY_HAVE_TUNE
  verbs.tune = lowkey::tune_verb;
#endif
#ifdef LOWKEY_HAVE_CALIBRATE
  verbs.calibrate = lowkey::calibrate_verb;
#endif
  return lowkey::run_cli(argc, argv, verbs, std::cout, std::cerr);
}
