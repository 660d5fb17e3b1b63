#include "tune/tcp_store.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <string_view>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "core/error.h"

namespace lowkey::tune {
namespace {

class TcpKeyStore : public KeyStore {
 public:
  TcpKeyStore(const CrewAddress& address, bool serve, std::chrono::seconds timeout)
      : address_(address) {
    c10d::TCPStoreOptions options;
    options.port = address.port;
    options.isServer = serve;
    options.waitWorkers = false;  // they may come and go
    options.timeout = timeout;
    translate([&] { store_ = c10::make_intrusive<c10d::TCPStore>(address.host, options); });
  }

  void set(const std::string& key, const std::string& value) override {
    translate([&] {
      store_->set(address_.prefix + key, std::vector<uint8_t>(value.begin(), value.end()));
    });
  }

  std::optional<std::string> get(const std::string& key) override {
    std::optional<std::string> value;
    translate([&] {
      if (!store_->check({address_.prefix + key})) return;
      const std::vector<uint8_t> bytes = store_->get(address_.prefix + key);
      value.emplace(bytes.begin(), bytes.end());
    });
    return value;
  }

  int64_t add(const std::string& key, int64_t amount) override {
    int64_t sum = 0;
    translate([&] { sum = store_->add(address_.prefix + key, amount); });
    return sum;
  }

 private:
  template <typename Work>
  void translate(const Work& work) {
    try {
      work();
    } catch (const std::exception& error) {
      const std::string_view what = error.what();
      fail(ErrorCode::kIo,
           "rank {}: no connection to the leader at {}:{} ({}); start the same command again, the "
           "journal has what was measured",
           address_.rank, address_.host, address_.port, what.substr(0, what.find('\n')));
    }
  }

  const CrewAddress address_;
  c10::intrusive_ptr<c10d::TCPStore> store_;
};

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

int32_t number(const char* name, int32_t least, int32_t most) {
  const auto text = variable(name);
  if (!text) {
    fail(ErrorCode::kInvalidArgument,
         "WORLD_SIZE is set, {} is not: a search on several processes needs RANK, WORLD_SIZE, "
         "MASTER_ADDR and MASTER_PORT, as torchrun sets them",
         name);
  }
  int32_t value = 0;
  const char* end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, value);
  if (error != std::errc() || stop != end || value < least || value > most) {
    fail(ErrorCode::kInvalidArgument, "{}='{}': must be a number from {} to {}", name, *text, least,
         most);
  }
  return value;
}

}  // namespace

std::optional<CrewAddress> crew_address_from_environment() {
  if (!variable("WORLD_SIZE")) return std::nullopt;
  CrewAddress address;
  address.world_size = number("WORLD_SIZE", 1, 4096);
  if (address.world_size == 1) return std::nullopt;
  address.rank = number("RANK", 0, address.world_size - 1);
  address.port = static_cast<uint16_t>(number("MASTER_PORT", 1, 65535));
  address.host = variable("MASTER_ADDR").value_or("");
  if (address.host.empty()) number("MASTER_ADDR", 0, 0);  // the same message
  address.hosted_by_torchrun = variable("TORCHELASTIC_USE_AGENT_STORE") == "True";
  address.prefix = fmt::format("lowkey/{}/{}/", variable("TORCHELASTIC_RUN_ID").value_or("0"),
                               variable("TORCHELASTIC_RESTART_COUNT").value_or("0"));
  return address;
}

std::unique_ptr<KeyStore> connect_tcp_store(const CrewAddress& address, bool serve,
                                            std::chrono::seconds timeout) {
  return std::make_unique<TcpKeyStore>(address, serve && !address.hosted_by_torchrun, timeout);
}

}  // namespace lowkey::tune
