#include "calibration_documents.h"

namespace lowkey {

std::vector<tune::Conversation> hold_conversations(const std::string& model, int threads,
                                                   const std::vector<tune::Script>& scripts,
                                                   int64_t tokens, int64_t ctx, uint64_t seed,
                                                   const ProgressFn& progress) {
  Engine engine(model, {.threads = threads}, progress);
  tune::SetFiller filler(tokens);
  std::vector<tune::Conversation> conversations;
  for (size_t i = 0; i < scripts.size() && !filler.full(); ++i) {
    tune::Conversation conversation = tune::answer(engine, scripts[i], ctx, seed + i, progress);
    if (conversation.messages.empty()) continue;  // too long for ctx
    filler.add(tune::chat_document(engine, conversation, ctx));
    conversations.push_back(std::move(conversation));
  }
  return conversations;
}

std::vector<tune::Script> usual_scripts(uint64_t seed) {
  constexpr int32_t kMostScripts = 800;
  return tune::calibration_scripts(seed, kMostScripts);
}

}  // namespace lowkey
