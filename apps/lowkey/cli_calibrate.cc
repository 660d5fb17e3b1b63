// The options of `lowkey calibrate`.
#include "cli_options.h"

namespace lowkey {
namespace {

constexpr const char* kCalibrateExamples = R"(What it does:
  runs MODEL, the 16-bit one, over a prefix once and keeps its keys and values in a file. Recipes
  name it (--kv 16+i@FILE): every quantized version of MODEL, and every quantized cache, then has
  that prefix exact (IntactKV). With --student the keys and values are trained besides, so that
  the student's layers put out what MODEL's do; after an interruption the same command goes on.

Examples:
  lowkey calibrate model.gguf --prefix bos -o bos.safetensors
  lowkey calibrate model.gguf --prefix chat -o chat.safetensors      the system prompt
  lowkey calibrate model.gguf --prefix "system:You are terse." -o terse.safetensors
  lowkey calibrate model.gguf --student w3/ -o chat-w3.safetensors   its own conversations
  lowkey calibrate model.gguf --student w3/ --chats chats.jsonl -o p.safetensors --report p.html
  lowkey calibrate model.gguf --student w3/ --text wiki.txt --prefix bos -o p.safetensors
  lowkey calibrate model.gguf --what prefix --length 64 --prefix text:@intro.txt --student w3/
      --loss answers --chats chats.jsonl -o p64.safetensors          prefix-tuning
  lowkey run w3/ --kv 16+i@chat-w3.safetensors
  lowkey eval w3/ --kv kivi-4:r32+i@chat-w3.safetensors --text wiki.txt
)";

std::optional<int32_t> parse_prefix_bits(const std::string& text) {
  for (const int32_t bits : {2, 3, 4, 8, 16}) {
    if (text == fmt::format("{}", bits)) return bits;
  }
  return std::nullopt;
}

CLI::Option* add_real(CLI::App& app, const std::string& name, double& target,
                      const std::string& description) {
  return app.add_option(name, target, description)->check(within(0.0, 1e9))->type_name("X");
}

}  // namespace

void add_calibrate(CLI::App& calibrate, CalibrateVerbOptions& options) {
  calibrate.footer(kCalibrateExamples);
  add_model(calibrate, options.model);
  add_choice(calibrate, "--what", options.what, {"intact", "prefix"},
             "an intact prefix, or a learned one of --length tokens; default intact");
  calibrate.add_option("-o,--out", options.out, "the prefix file")
      ->required()
      ->type_name("FILE.safetensors");
  calibrate
      .add_option("--prefix", options.prefix,
                  "bos, chat, system:TEXT, text:TEXT, text:@FILE, ids:1,2,...; default\n"
                  "chat, or bos where the model has no chat template")
      ->type_name("PREFIX");
  add_count(calibrate, "--length", options.length,
            "of a learned prefix: it starts as the first N tokens of --prefix");
  calibrate.add_option("--name", options.name, "what people should call it")->type_name("TEXT");
  add_parsed(calibrate, "--kv-bits", options.bits, parse_prefix_bits, "16, 8, 4, 3 or 2",
             "round the prefix itself, per token and head; default 16")
      ->type_name("N");

  calibrate.option_defaults()->group("Training");
  calibrate
      .add_option("--student", options.student,
                  "a quantized version of MODEL (lowkey quantize): train for it")
      ->type_name("DIR");
  add_files(calibrate, "--chats", options.chats,
            "JSONL of conversations, {\"messages\": ...} or {\"turns\": ...}");
  add_files(calibrate, "--text", options.texts, "plain text, all of whose tokens count");
  add_count(calibrate, "--samples", options.samples, "to train on; default 128");
  add_count(calibrate, "--heldout", options.heldout, "besides, to stop by; default 16");
  add_count(calibrate, "-c,--tokens", options.tokens, "of a sample, at most; default 512", 8);
  add_choice(calibrate, "--loss", options.loss, {"layers", "kl", "answers"},
             "half the squared error of layers' outputs, KL of predictions, or the\n"
             "answers' own cross-entropy; default layers");
  add_count(calibrate, "--steps", options.steps, "updates at most; default 64, the paper's is 160",
            0);
  add_count(calibrate, "--accumulation", options.accumulation, "samples of an update; default 16");
  add_real(calibrate, "--lr", options.learning_rate, "AdamW's, constant; default 2e-4");
  add_real(calibrate, "--weight-decay", options.weight_decay, "AdamW's; default 0");
  add_real(calibrate, "--clip", options.clip, "norm of the gradient at most; 0: any; default 0.3");
  add_count(calibrate, "--evaluate-every", options.evaluate_every,
            "updates between looks at the held-out loss; default 8");
  add_count(calibrate, "--patience", options.patience,
            "looks without a better loss before it stops; 0: never; default 5", 0);
  calibrate.add_option("-s,--seed", options.seed, "of the samples and their order; default 1")
      ->type_name("N");
  add_parsed(calibrate, "--target-memory", options.target_memory, parse_bytes,
             "a size such as 2GiB",
             "for the teacher's outputs; beyond, computed again; default a quarter")
      ->type_name("SIZE");

  calibrate.option_defaults()->group("Options");
  add_parsed(
      calibrate, "--weights", options.weights,
      [](const std::string& text) -> std::optional<WeightsOption> {
        if (text == "auto") return WeightsOption::kAuto;
        if (text == "f32") return WeightsOption::kF32;
        if (text == "bf16") return WeightsOption::kBf16;
        return std::nullopt;
      },
      "auto, f32 or bf16", "f32, bf16; default f32, to train bf16 where the processor has it")
      ->type_name("TYPE");
  add_threads(calibrate, options.threads);
  calibrate.add_option("--json", options.json_file, "also write settings, losses and curve here")
      ->type_name("FILE");
  calibrate.add_option("--report", options.report_file, "the same as a page with a picture")
      ->type_name("FILE.html");
  calibrate.add_flag("--no-color", options.no_color, "no colours (also: NO_COLOR)");
}

std::string calibrate_mistake(const CalibrateVerbOptions& options) {
  if (options.what == "prefix" && !options.length) return "--what prefix needs --length N";
  if (options.what == "prefix" && !options.student) {
    return "--what prefix needs --student DIR: a prefix that is not trained is --what intact";
  }
  if (options.what == "intact" && options.length) {
    return "--length is for --what prefix: an intact prefix is as long as --prefix says";
  }
  if (options.student) return {};
  if (!options.texts.empty() || !options.chats.empty()) {
    return "--text and --chats are for training, which needs --student DIR";
  }
  if (options.report_file) return "--report shows a training, which needs --student DIR";
  return {};
}

}  // namespace lowkey
