#pragma once
// The texts a search is judged on: conversations, answered examples, plain text, as documents of
// tokens, in two sets that share none. Belongs to the engine's thread.
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "engine/engine.h"
#include "eval/document.h"
#include "tune/prompts.h"

namespace lowkey::tune {

// The role of a conversation's only message when it is no conversation but a text to read.
inline constexpr const char* kPlainText = "text";

struct Conversation {
  std::string name;
  std::vector<ChatMessage> messages;  // user and assistant in turn, perhaps a system message first
};

struct CalibrationSets {
  std::vector<Document> calibration;  // the search looks at these
  std::vector<Document> heldout;      // and its result is measured on these
};

// A JSONL file: {"messages": [{"role": ..., "content": ...}, ...]}, or {"turns": ["...", ...]} with
// the user's side alone (MT-Bench's form). Throws Error: as read_file; kCorruptFile with file:line.
// `scripts` gets those without answers, in order, to be answered by the model.
struct ChatFile {
  std::vector<Conversation> conversations;
  std::vector<Script> scripts;
};
ChatFile read_chats(const std::filesystem::path& path);

// The model's own answers (of prose: its continuation), from a 16-bit cache, sampled at a
// temperature of 0.7 (of 1): greedy ones of small models repeat themselves. The same seed and model
// give the same answers. Conversations end early where the next turn might not fit `max_tokens`.
Conversation answer(Engine& engine, const Script& script, int64_t max_tokens, uint64_t seed,
                    const ProgressFn& progress);

// As the model's own template writes it ("Question: ..., Answer: ..." where it has none). Scored is
// what the assistant says, and what follows its first words: from there on the conversation is the
// model's. Of a plain text every token but the first. Cut at `max_tokens`.
Document chat_document(const Engine& engine, const Conversation& conversation, int64_t max_tokens);

// Whole windows of `ctx` tokens of a text, a beginning-of-text token put in front where the model
// expects one, at most max_windows (0: all). Throws Error kInvalidArgument where it is too short
// for two: one is held out.
CalibrationSets text_sets(const Engine& engine, const std::string& text, int64_t ctx,
                          int64_t max_windows, std::string_view name);

// Documents as they come: as many in a row calibrate as there are kinds of scripts, then as many
// are held out, so that both sets hold all kinds. Full when both sets have `tokens` scored tokens.
class SetFiller {
 public:
  explicit SetFiller(int64_t tokens) : tokens_(tokens) {}
  bool full() const;
  void add(Document document);
  // Throws Error kInvalidArgument when a set stayed empty.
  CalibrationSets take();

 private:
  int64_t tokens_;
  int64_t added_ = 0;
  int64_t counts_[2] = {0, 0};
  CalibrationSets sets_;
};

// SHA-256 of both sets' tokens and scored ranges: what a journal's records depend on.
std::string documents_sha256(const CalibrationSets& sets);

}  // namespace lowkey::tune
