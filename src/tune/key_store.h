#pragma once
// A small shared dictionary: all that processes of one search need to work together. Torch-free;
// what it is made of is c10d's TCPStore (tcp_store.h), or plain memory in tests.
#include <cstdint>
#include <optional>
#include <string>

namespace lowkey::tune {

// Throws Error kIo when the other side is gone. Implementations belong to one thread each.
class KeyStore {
 public:
  virtual ~KeyStore() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  virtual std::optional<std::string> get(const std::string& key) = 0;  // does not wait
  virtual int64_t add(const std::string& key, int64_t amount) = 0;     // the sum afterwards
};

}  // namespace lowkey::tune
