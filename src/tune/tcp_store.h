#pragma once
// A KeyStore over c10d's TCPStore, found as torchrun, Slurm and PyTorch users expect it: by RANK,
// WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Torch-free header.
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tune/key_store.h"

namespace lowkey::tune {

struct CrewAddress {
  int32_t rank = 0;
  int32_t world_size = 1;
  std::string host;
  uint16_t port = 0;
  // torchrun keeps a store of its own at that address: everybody is its guest, and keys of earlier
  // attempts may still be there.
  bool hosted_by_torchrun = false;
  std::string prefix;  // of all keys
};

// Nothing when WORLD_SIZE is unset or 1. Throws Error kInvalidArgument naming the variable that is
// missing or no number.
std::optional<CrewAddress> crew_address_from_environment();

// Connects; rank 0 serves unless torchrun does. Throws Error kIo when nobody answers in time.
std::unique_ptr<KeyStore> connect_tcp_store(const CrewAddress& address, bool serve,
                                            std::chrono::seconds timeout);

}  // namespace lowkey::tune
