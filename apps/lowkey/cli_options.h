#pragma once
// Options that several verbs have. Included by the files that include CLI11 and by no other.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "units.h"
#include "verbs.h"

namespace lowkey {

// Checked, but without the bounds in the help, where they would crowd out the words.
template <typename T>
CLI::Validator within(T least, T most) {
  return CLI::Range(least, most).description("");
}

// An option whose text `parse` reads (nothing: refused with what is `expected`).
template <typename Target, typename Parse>
CLI::Option* add_parsed(CLI::App& app, const std::string& name, Target& target, Parse parse,
                        const std::string& expected, const std::string& description) {
  return app.add_option_function<std::string>(
      name,
      [name, &target, parse, expected](const std::string& text) {
        const auto value = parse(text);
        if (!value) {
          throw CLI::ValidationError(name, fmt::format("'{}' is not {}", text, expected));
        }
        target = *value;
      },
      description);
}

template <typename Target>
CLI::Option* add_count(CLI::App& app, const std::string& name, Target& target,
                       const std::string& description, int64_t least = 1) {
  const auto parse = [least](const std::string& text) {
    const auto count = parse_count(text);
    return count && *count >= least ? count : std::nullopt;
  };
  return add_parsed(app, name, target, parse,
                    fmt::format("a count of at least {}, such as 4096 or 32k", least), description)
      ->type_name("N");
}

inline auto one_of(const std::vector<std::string>& words) {
  return [words](const std::string& text) -> std::optional<std::string> {
    for (const std::string& word : words) {
      if (text == word) return word;
    }
    return std::nullopt;
  };
}

inline CLI::Option* add_choice(CLI::App& app, const std::string& name, std::string& target,
                               const std::vector<std::string>& words,
                               const std::string& description) {
  std::string list;
  for (size_t i = 0; i < words.size(); ++i) {
    list += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + words[i];
  }
  return add_parsed(app, name, target, one_of(words), list, description)->type_name("NAME");
}

inline CLI::Option* add_number(CLI::App& app, const std::string& name,
                               std::optional<double>& target, const std::string& description) {
  return app.add_option(name, target, description)->check(within(0.0, 1e9))->type_name("X");
}

inline CLI::Option* add_files(CLI::App& app, const std::string& name,
                              std::vector<std::string>& target, const std::string& description) {
  return app.add_option(name, target, description)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("FILE");
}

inline CLI::Option* add_weights(CLI::App& app, WeightsOption& target, const char* by_default) {
  const auto parse = [](const std::string& text) -> std::optional<WeightsOption> {
    if (text == "auto") return WeightsOption::kAuto;
    if (text == "f32") return WeightsOption::kF32;
    if (text == "bf16") return WeightsOption::kBf16;
    if (text == "file") return WeightsOption::kFile;
    if (text == "packed") return WeightsOption::kPacked;
    return std::nullopt;
  };
  return add_parsed(app, "--weights", target, parse, "auto, f32, bf16, file or packed",
                    fmt::format("auto, f32, bf16, file, packed (file for decoding); default {}",
                                by_default))
      ->type_name("TYPE");
}

inline CLI::Option* add_model(CLI::App& app, std::string& target) {
  return app.add_option("model,-m,--model", target, "a .gguf file or a Hugging Face folder")
      ->required()
      ->type_name("MODEL");
}

// Each --kv takes one recipe and may be given again.
inline CLI::Option* add_recipes(CLI::App& app, std::vector<std::string>& target,
                                const std::string& description) {
  return app.add_option("--kv", target, description)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("RECIPE");
}

// "128,4k", and given again: more of them.
inline CLI::Option* add_counts(CLI::App& app, const std::string& name, std::vector<int64_t>& target,
                               const std::string& description) {
  return app
      .add_option_function<std::vector<std::string>>(
          name,
          [name, &target](const std::vector<std::string>& texts) {
            target.clear();
            for (const std::string& text : texts) {
              const auto count = parse_count(text);
              if (!count) {
                throw CLI::ValidationError(
                    name, fmt::format("'{}' is not a count such as 128 or 4k", text));
              }
              target.push_back(*count);
            }
          },
          description)
      ->delimiter(',')
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("N,...");
}

inline CLI::Option* add_threads(CLI::App& app, int& target) {
  return app.add_option("-t,--threads", target, "threads; 0, the default: every core")
      ->check(within(0, 1024))
      ->type_name("N");
}

void add_tune(CLI::App& tune, TuneVerbOptions& options);                 // cli_tune.cc
void add_calibrate(CLI::App& calibrate, CalibrateVerbOptions& options);  // cli_calibrate.cc
// What is wrong with options that do not go together; empty: nothing.
std::string calibrate_mistake(const CalibrateVerbOptions& options);
void add_quantize(CLI::App& quantize, QuantizeVerbOptions& options);  // cli_quantize.cc

}  // namespace lowkey
