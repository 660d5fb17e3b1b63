#include "probe_subject.h"

#include <filesystem>

#include "calibration_documents.h"
#include "core/files.h"
#include "model_options.h"

namespace lowkey {
namespace {

constexpr uint64_t kSeed = 1;  // of the conversations

std::vector<tune::Conversation> conversations_of(const ProbeVerbOptions& options,
                                                 const ProgressFn& progress) {
  if (options.text) return {};
  return hold_conversations(options.model, options.threads, usual_scripts(kSeed),
                            options.ctx * options.chunks, options.ctx, kSeed, progress);
}

}  // namespace

ProbeSubject::ProbeSubject(const ProbeVerbOptions& verb_options, const ProgressFn& progress)
    : options(verb_options),
      text(options.text ? read_file(*options.text) : ""),
      conversations(conversations_of(options, progress)),
      engine(options.model, {weight_storage(options.weights), options.threads, 0}, progress) {}

std::string ProbeSubject::name() const {
  return engine.file().path().filename().string();
}

std::string ProbeSubject::texts_name() const {
  return options.text ? std::filesystem::path(*options.text).filename().string()
                      : "its own conversations";
}

}  // namespace lowkey
