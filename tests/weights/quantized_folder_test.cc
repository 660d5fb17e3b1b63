// Folders of quantized weights: written, read again, damaged.
#include "weights/quantized_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "core/files.h"
#include "core/rng.h"
#include "load/quantized_model.h"
#include "model/model_support.h"
#include "support/family_model.h"
#include "support/message_of.h"
#include "support/tiny_model.h"
#include "weights/method.h"

namespace lowkey {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using ::testing::HasSubstr;

std::vector<float> values_of(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.rows() * tensor.cols()));
  dequantize_rows(tensor, 0, tensor.rows(), values.data());
  return values;
}

class Folder : public testing::Test {
 protected:
  // Rounds `source` and writes it; the blocks stay in done_.
  fs::path quantize(const fs::path& source, WeightGrid grid, const std::string& name = "out",
                    const std::string& method = "rtn") {
    file_ = std::make_unique<ModelFile>(ModelFile::open(source));
    options_ = {.method = method, .grid = grid};
    model_ = std::make_unique<FloatModel>(*file_, pool_, none_);
    done_ = std::make_unique<Quantization>(
        Quantization{.options = options_, .model = *model_, .pool = pool_, .progress = none_});
    quantize_weights(*done_);
    return write(name);
  }

  fs::path write(const std::string& name) {
    write_quantized_folder(folder_ / name, *file_, *done_, {.command = "quantize it"}, none_);
    return folder_ / name;
  }

  fs::path tiny(ModelFormat format, test::TinyModelOptions options = {}) {
    const test::TinyModel model(options);
    if (format == ModelFormat::kGguf) {
      model.write_gguf(folder_ / "tiny.gguf");
      return folder_ / "tiny.gguf";
    }
    fs::create_directories(folder_ / "tiny");
    model.write_hugging_face(folder_ / "tiny");
    return folder_ / "tiny";
  }

  void expect_equal_models(const ModelFile& read) {
    EXPECT_EQ(read.source_fingerprint(), file_->fingerprint());
    EXPECT_EQ(file_->source_fingerprint(), file_->fingerprint());
    EXPECT_NE(read.fingerprint(), file_->fingerprint());
    EXPECT_EQ(read.tensor_names(), file_->tensor_names());
    EXPECT_EQ(read.tokenizer().tokens, file_->tokenizer().tokens);
    EXPECT_EQ(read.chat_template(), file_->chat_template());
    EXPECT_EQ(read.format(), file_->format());
    for (const std::string& name : read.tensor_names()) {
      const TensorView& tensor = read.tensor(name);
      const auto blocks = done_->blocks.find(name);
      if (blocks == done_->blocks.end()) {
        EXPECT_EQ(tensor.dtype, file_->tensor(name).dtype) << name;
        EXPECT_EQ(values_of(tensor), values_of(file_->tensor(name))) << name;
      } else {
        EXPECT_EQ(tensor.dtype, options_.grid.dtype()) << name;
        EXPECT_EQ(values_of(tensor), values_of(blocks->second.view())) << name;
      }
    }
  }

  test::TempDir folder_;
  ThreadPool pool_{2};
  ProgressFn none_;
  QuantizeOptions options_;
  std::unique_ptr<ModelFile> file_;
  std::unique_ptr<FloatModel> model_;
  std::unique_ptr<Quantization> done_;
};

TEST_F(Folder, HoldsWhatWasWritten) {
  for (const ModelFormat format : {ModelFormat::kGguf, ModelFormat::kHuggingFace}) {
    for (const int32_t bits : {2, 3, 4, 8}) {
      const fs::path out = quantize(tiny(format, {.dtype = DType::kBF16}), {bits, 32},
                                    fmt::format("{}-{}", static_cast<int>(format), bits));
      const ModelFile read = ModelFile::open(out);
      expect_equal_models(read);
      ASSERT_NE(read.quantization(), nullptr);
      EXPECT_EQ(read.quantization()->method, "rtn");
      EXPECT_EQ(read.quantization()->bits, bits);
      EXPECT_EQ(read.quantization()->group, 32);
      EXPECT_EQ(read.quantization()->command, "quantize it");
      EXPECT_LT(read.weight_bytes(), file_->weight_bytes());
    }
  }
  EXPECT_EQ(file_->quantization(), nullptr);
}

// Biases, untied heads, rope divisors, rows of interleaved heads, experts, norms of all kinds.
TEST_F(Folder, HoldsEveryFamily) {
  for (const std::string& name : test::FamilyModel::names()) {
    SCOPED_TRACE(name);
    const test::FamilyModel family(name);
    const fs::path source = folder_ / name;
    fs::create_directories(source);
    family.write_hugging_face(source, family.spellings().front());
    expect_equal_models(ModelFile::open(quantize(source, {4, 32}, name + "-out")));
    if (!family.has_gguf()) continue;
    const fs::path gguf = folder_ / (name + ".gguf");
    family.gguf().write(gguf);
    expect_equal_models(ModelFile::open(quantize(gguf, {3, 32}, name + "-gguf")));
  }
}

// The folder run is the model in memory, to the bit.
TEST_F(Folder, RunsAsTheFloatsInMemory) {
  const std::vector<int32_t> tokens{3, 70, 11, 200, 5, 99};
  for (const ModelFormat format : {ModelFormat::kGguf, ModelFormat::kHuggingFace}) {
    const fs::path out =
        quantize(tiny(format), {3, 32}, fmt::format("run{}", static_cast<int>(format)));
    for (const auto& [name, blocks] : done_->blocks)
      decode_blocks(blocks, model_->edit(name).values.data(), pool_);
    test::LoadedModel read(out, WeightStorage::kF32, 2);
    const std::vector<float> from_folder = test::run_logits(read, "16", tokens, 6);

    // The floats written out as they are: what a run from memory is.
    done_->blocks.clear();
    test::LoadedModel floats(write(fmt::format("floats{}", static_cast<int>(format))),
                             WeightStorage::kF32, 2);
    EXPECT_EQ(from_folder, test::run_logits(floats, "16", tokens, 6));
  }
}

// Rotated and not rounded: another model that computes the same.
TEST_F(Folder, MayHoldFloatsThatAMethodChanged) {
  const std::vector<int32_t> tokens{3, 70, 11, 200, 5, 99};
  const fs::path source = tiny(ModelFormat::kHuggingFace);
  const fs::path out = quantize(source, {.bits = kFloatBits}, "turned", "quarot");
  EXPECT_TRUE(done_->blocks.empty());
  test::LoadedModel turned(out, WeightStorage::kF32, 2), plain(source, WeightStorage::kF32, 2);
  EXPECT_TRUE(turned.file().config().hadamard_down);
  const std::vector<float> expected = test::run_logits(plain, "32", tokens, 6);
  EXPECT_THAT(test::run_logits(turned, "32", tokens, 6),
              testing::Pointwise(testing::FloatNear(1e-3F), expected));
}

TEST_F(Folder, FourAndEightBitsStayPacked) {
  for (const int32_t bits : {2, 3, 4, 8}) {
    const fs::path out =
        quantize(tiny(ModelFormat::kHuggingFace), {bits, 64}, std::to_string(bits));
    const ModelFile read = ModelFile::open(out);
    const ModelWeights weights = load_weights(read, WeightStorage::kPacked, pool_, {});
    for_each_linear(weights.layers.front(), [&](const Linear& linear) {
      EXPECT_EQ(linear.weight.dtype(), options_.grid.dtype());
      EXPECT_EQ(linear.weight.layout(), bits >= 4 ? WeightLayout::kStrips : WeightLayout::kRows);
      if (bits < 4) {
        EXPECT_EQ(linear.weight.owned_bytes(), 0);
      }
    });
  }
}

TEST_F(Folder, CarriesWhatTheConfigurationBecame) {
  const fs::path source = tiny(ModelFormat::kGguf);
  quantize(source, {4, 32});
  ModelConfig& config = model_->config;
  ASSERT_TRUE(config.tied_embeddings);
  model_->add("head.weight", model_->tensor("embed.weight").shape,
              model_->tensor("embed.weight").values);
  config.tied_embeddings = false;
  config.activation_bits = 4;
  config.activation_clip = 0.9;
  config.activation_symmetric = false;
  config.hadamard_qk = config.hadamard_v = config.hadamard_down = true;
  const ModelFile read = ModelFile::open(write("changed"));
  EXPECT_FALSE(read.config().tied_embeddings);
  EXPECT_EQ(read.config().activation_bits, 4);
  EXPECT_EQ(read.config().activation_clip, 0.9);
  EXPECT_FALSE(read.config().activation_symmetric);
  EXPECT_TRUE(read.config().hadamard_qk && read.config().hadamard_v && read.config().hadamard_down);
  EXPECT_EQ(values_of(read.tensor("head.weight")), values_of(file_->tensor("embed.weight")));
}

TEST_F(Folder, IsWrittenAllAtOnceAndReplacedOnRequest) {
  const fs::path source = tiny(ModelFormat::kHuggingFace);
  const fs::path out = quantize(source, {4, 32});
  EXPECT_THAT(message_of([&] { check_folder_is_free(out, {}); }), HasSubstr("--force"));
  quantize(source, {4, 32}, "again");
  write_quantized_folder(out, *file_, *done_, {.replace = true}, none_);
  EXPECT_EQ(ModelFile::open(out).quantization()->command, "");
  // What somebody else put there is nobody's to remove.
  std::ofstream(out / "notes.txt") << "mine";
  EXPECT_THAT(message_of([&] { check_folder_is_free(out, {.replace = true}); }),
              HasSubstr("notes.txt"));
  EXPECT_THAT(message_of([&] { check_folder_is_free(source, {.replace = true}); }),
              HasSubstr("was not written by lowkey quantize"));
  // An end in the middle leaves nothing.
  const ProgressFn cancel = [](std::string_view, int64_t, int64_t) {
    fail(ErrorCode::kCancelled, "stopped");
  };
  EXPECT_THROW(write_quantized_folder(folder_ / "never", *file_, *done_, {}, cancel), Error);
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_.path()))
    EXPECT_THAT(entry.path().filename().string(), testing::Not(testing::StartsWith("never")));
}

// What each field may not be, and what is said.
TEST_F(Folder, DamageIsRefusedInOneLine) {
  const fs::path out = quantize(tiny(ModelFormat::kGguf), {4, 32});
  const std::string good = read_file(out / kQuantizationFile);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    write_file_atomically(out / kQuantizationFile, text);
    return message_of([&] { (void)ModelFile::open(out); });
  };
  EXPECT_THAT(with("\"lowkey_quantization\": 1", "\"lowkey_quantization\": 2"),
              HasSubstr("written as version 2"));
  EXPECT_THAT(with("\"method\"", "\"metod\""), HasSubstr("'metod'"));
  EXPECT_THAT(with("\"bits\": 4", "\"bits\": 99"), HasSubstr("'bits' is 99, not 2 to 8, or 16"));
  EXPECT_THAT(with("\"gguf\"", "\"onnx\""), HasSubstr("neither 'gguf' nor 'huggingface'"));
  EXPECT_THAT(with("\"fingerprint\": \"", "\"fingerprint\": \"x"), HasSubstr("hexadecimal"));
  const auto with_config = [&](const std::string& config) {
    return with("\"method\"", "\"config\": " + config + ", \"method\"");
  };
  EXPECT_THAT(with_config("{\"activation_bits\": 1}"), HasSubstr("activation_bits"));
  EXPECT_THAT(with_config("{\"activation_clip\": 2.0}"), HasSubstr("activation_clip"));
  EXPECT_THAT(with_config("{\"num_layers\": 3}"), HasSubstr("not known"));
  EXPECT_THAT(with_config("{\"tied_embeddings\": false}"), HasSubstr("head.weight"));
  EXPECT_THAT(with_config("[1]"), HasSubstr("config"));
  EXPECT_THAT(with("{", "{{"), HasSubstr("JSON"));
  write_file_atomically(out / kQuantizationFile, good);
  (void)ModelFile::open(out);
  fs::remove(out / kGgufHeaderFile);
  EXPECT_THAT(message_of([&] { (void)ModelFile::open(out); }), HasSubstr("source.gguf"));
}

// Any byte of any file may be wrong: the folder opens or is refused.
TEST_F(Folder, NoByteCrashesTheReader) {
  for (const ModelFormat format : {ModelFormat::kGguf, ModelFormat::kHuggingFace}) {
    const fs::path out = quantize(tiny(format, {.layers = 1}), {3, 32},
                                  fmt::format("flip{}", static_cast<int>(format)));
    SplitMix64 rng(5);
    int refused = 0;
    for (const std::string_view name :
         {kQuantizationFile, kQuantizedWeightsFile, kGgufHeaderFile}) {
      if (!fs::exists(out / name)) continue;
      const std::string good = read_file(out / name);
      const size_t reach = std::min<size_t>(good.size(), 3000);  // headers, not weights
      for (int i = 0; i < 120; ++i) {
        std::string bad = good;
        if (i % 8 == 7)
          bad.resize(rng.below(good.size()));
        else
          bad[rng.below(reach)] ^= static_cast<char>(1u << rng.below(8));
        write_file_atomically(out / name, bad);
        try {
          const ModelFile read = ModelFile::open(out);
          for (const std::string& tensor : read.tensor_names())
            (void)values_of(read.tensor(tensor));
        } catch (const Error& error) {
          ++refused;
          EXPECT_THAT(error.what(), testing::Not(HasSubstr("\n")));
        }
      }
      write_file_atomically(out / name, good);
    }
    EXPECT_GT(refused, 100);
  }
}

}  // namespace
}  // namespace lowkey
