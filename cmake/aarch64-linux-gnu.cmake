# For the aarch64 preset: Debian's cross compiler, and its tests under QEMU (./dev test installs both).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
# A Neoverse N1 has dot products of bytes and nothing newer: an instruction that we must not use is illegal there.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu neoverse-n1 -L /usr/aarch64-linux-gnu)
