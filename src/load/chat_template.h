#pragma once
// Renders the chat template a model file carries: the part of Jinja2 that such templates use,
// interpreted with hard limits (a file is data, never code to trust). White space, filters and
// globals are as Hugging Face sets them up for apply_chat_template. Torch-free; immutable,
// thread-safe.
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "load/prompt.h"

namespace lowkey {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  // bos_token, eos_token: their text, or "" for a vocabulary without one (undefined in the
  // template). Throws Error kInvalidArgument with the position if the template does not parse or
  // nests too deeply.
  ChatTemplate(std::string_view source, std::string bos_token, std::string eos_token);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // The prompt, neighbouring pieces of one origin joined; give it to Tokenizer::encode(prompt).
  // `now` is what strftime_now prints, in UTC; absent: the local time of the call. Limits: depth
  // 64, 1M steps, 4 MiB of output. Throws Error kInvalidArgument with the position when one is
  // passed, when the template raises an exception of its own (raise_exception), or on a type error.
  std::vector<PromptPiece> render(const std::vector<ChatMessage>& messages,
                                  bool add_generation_prompt,
                                  std::optional<std::chrono::sys_seconds> now = std::nullopt) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace lowkey
