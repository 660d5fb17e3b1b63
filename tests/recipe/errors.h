#pragma once
// What a piece of code complains about: its code and its message, both part of the contract.
#include <functional>
#include <string>

#include "core/error.h"

namespace lowkey {

inline std::string complaint(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return std::string(error_code_name(error.code())) + ": " + error.what();
  }
  return "(no error)";
}

}  // namespace lowkey
