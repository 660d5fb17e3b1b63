#pragma once
// A prompt as runs of text that remember who wrote them. Torch-free, plain values.
#include <string>

namespace lowkey {

// A piece of a rendered prompt. Text from the template may hold role markers ("<|im_start|>"),
// which become control tokens; text that came from a message never does.
struct PromptPiece {
  std::string text;
  bool from_template = true;
};

}  // namespace lowkey
