// The options of `lowkey quantize`.
#include "cli_options.h"
#include "verbs.h"

namespace lowkey {
namespace {

constexpr const char* kExamples = R"(Examples:
  lowkey quantize model.gguf -o w4                                 4 bits, to nearest
  lowkey quantize model.gguf --method awq -g 64 --text wiki.txt -o awq-w4g64
  lowkey quantize ./hf-folder --method gptq -b 3 -g 64 --text wiki.txt --samples 64 -o w3
  lowkey quantize ./hf-folder --method smoothquant --act-bits 8 -b 8 --text wiki.txt -o w8a8
  lowkey quantize model.gguf --method quarot --act-bits 4 --rounding gptq --text wiki.txt -o w4a4
  lowkey quantize model.gguf --method omniquant -b 3 -g 64 --text wiki.txt --samples 16 -o w3
  lowkey quantize model.gguf --method quarot -b 16 -o rotated      rotated, not rounded
  lowkey run awq-w4g64 -p "Why is the sky blue?" --kv kivi-4       as any other model

Matrices of the layers are rounded; embedding, head, norms and routers stay as they are.
4 and 8 bits run from packed kernels, 2 and 3 bits from plain ones; activations (--act-bits)
are rounded in a simulation. docs/formats/weights.md has the folder.
)";

}  // namespace

void add_quantize(CLI::App& quantize, QuantizeVerbOptions& options) {
  quantize.footer(kExamples);
  add_model(quantize, options.model);
  quantize.add_option("-o,--output", options.output, "the folder to write")
      ->required()
      ->type_name("DIR");
  quantize
      .add_option("--method", options.method,
                  "rtn, gptq, awq, omniquant, smoothquant, quarot; default rtn")
      ->type_name("NAME");
  add_count(quantize, "-b,--bits", options.bits,
            "of a weight: 2, 3, 4 or 8, or 16 with quarot; default 4");
  add_count(quantize, "-g,--group", options.group,
            "inputs that share a scale, or 0: the whole row; default 128", 0);
  quantize.add_flag("--f32-params", options.f32_params,
                    "scales and minima as f32 numbers, matrices written as floats: a\n"
                    "simulation, for figures of papers");
  add_count(quantize, "--act-bits", options.activation_bits,
            "of what matrices are given, where a method rounds it; default 16", 2);
  quantize
      .add_option("--rounding", options.rounding, "after quarot: nearest or gptq; default nearest")
      ->type_name("HOW");

  quantize.option_defaults()->group("Of single methods");
  const auto add_number = [&](const std::string& name, auto& target, double least, double most,
                              const char* description) {
    quantize.add_option(name, target, description)->check(within(least, most))->type_name("X");
  };
  add_number("--act-clip", options.activation_clip, 0.01, 1.0,
             "of a token's largest magnitude; default 0.9 with quarot, else 1");
  add_number("--alpha", options.alpha, 0.0, 1.0,
             "smoothquant: how much goes from inputs to weights; default 0.5");
  add_count(quantize, "--epochs", options.epochs, "omniquant: rounds of all samples; default 20");
  add_number("--lr", options.learning_rate, 1e-9, 1.0, "omniquant: of AdamW; default 0.005");

  quantize.option_defaults()->group("Calibration");
  quantize.add_option("--text", options.text, "plain text; all methods but rtn look at one")
      ->type_name("FILE");
  add_count(quantize, "--samples", options.samples, "windows of the text; default 128");
  add_count(quantize, "-c,--ctx", options.ctx, "tokens of a window; default 512", 2);
  quantize.add_option("-s,--seed", options.seed, "which windows, rotations; default 1")
      ->type_name("N");

  quantize.option_defaults()->group("Options");
  quantize.add_flag("--force", options.force, "replace a folder that lowkey quantize wrote");
  add_threads(quantize, options.threads);
  quantize.add_option("--json", options.json_file, "write the table as JSON")->type_name("FILE");
  quantize.add_flag("--no-color", options.no_color, "no colours (also: NO_COLOR)");
}

}  // namespace lowkey
