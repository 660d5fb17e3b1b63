#pragma once
// Renders the chat template a model file carries: the part of Jinja2 that such templates use,
// interpreted with hard limits (a file is data, never code to trust). Torch-free; immutable,
// thread-safe.
#include <cstdint>
#include <memory>
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
  // Throws Error kInvalidArgument with the position if the template does not parse or nests too
  // deeply.
  explicit ChatTemplate(std::string_view source, std::string bos_token, std::string eos_token);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // Limits: depth 64, 1M steps, 4 MB of output. Throws Error kInvalidArgument when one is passed,
  // when the template raises an exception of its own (raise_exception), or on a type error.
  std::vector<PromptPiece> render(const std::vector<ChatMessage>& messages,
                                  bool add_generation_prompt) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace lowkey
