#include "calibration_documents.h"

#include <nlohmann/json.hpp>

namespace lowkey {
namespace {

using tune::Conversation;

nlohmann::json to_json(const Conversation& conversation) {
  nlohmann::json messages = nlohmann::json::array();
  for (const ChatMessage& message : conversation.messages) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  return {{"name", conversation.name}, {"messages", messages}};
}

Conversation conversation_from(const nlohmann::json& json) {
  Conversation conversation{json.at("name"), {}};
  for (const nlohmann::json& message : json.at("messages")) {
    conversation.messages.push_back({message.at("role"), message.at("content")});
  }
  return conversation;
}

}  // namespace

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

std::vector<Conversation> remembered_conversations(
    tune::Journal& journal, const std::function<std::vector<Conversation>()>& hold) {
  std::vector<Conversation> conversations;
  for (const nlohmann::json& record : journal.records()) {
    if (!record.contains("conversations")) continue;
    for (const nlohmann::json& item : record.at("conversations")) {
      conversations.push_back(conversation_from(item));
    }
    return conversations;
  }
  conversations = hold();
  nlohmann::json list = nlohmann::json::array();
  for (const Conversation& conversation : conversations) list.push_back(to_json(conversation));
  journal.append({{"conversations", list}});
  return conversations;
}

}  // namespace lowkey
