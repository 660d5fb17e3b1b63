find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
if(LOWKEY_TESTS)
  find_package(GTest REQUIRED)
endif()
if(LOWKEY_TORCH)
  find_package(CLI11 REQUIRED)
  # Not find_package(Torch): it turns CUDA on and needs every NVIDIA wheel at link time. The CPU half of
  # the wheel is two libraries and a header tree, and that is all we use.
  if(NOT EXISTS ${TORCH_ROOT}/lib/libtorch_cpu.so)
    message(FATAL_ERROR "no libtorch in ${TORCH_ROOT}: run './dev setup', or configure with -DLOWKEY_TORCH=OFF")
  endif()
  add_library(torch_cpu SHARED IMPORTED GLOBAL)
  set_target_properties(torch_cpu PROPERTIES
    IMPORTED_LOCATION ${TORCH_ROOT}/lib/libtorch_cpu.so
    INTERFACE_INCLUDE_DIRECTORIES "${TORCH_ROOT}/include;${TORCH_ROOT}/include/torch/csrc/api/include"
    INTERFACE_COMPILE_FEATURES cxx_std_20
    INTERFACE_LINK_LIBRARIES ${TORCH_ROOT}/lib/libc10.so)
endif()
