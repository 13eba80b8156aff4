# Packages of Debian 12, and LibTorch from the PyTorch wheel of the virtual environment.
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(OpenSSL 3 REQUIRED)
find_package(prometheus-cpp REQUIRED)
find_package(GTest REQUIRED)
find_package(HWY CONFIG REQUIRED)
# The distribution's package of hiredis has no target, and cannot be found without asking for a version.
find_path(GMA_HIREDIS_INCLUDE hiredis/hiredis.h REQUIRED)
find_library(GMA_HIREDIS_LIBRARY hiredis REQUIRED)
add_library(gma_hiredis INTERFACE)
target_include_directories(gma_hiredis SYSTEM INTERFACE ${GMA_HIREDIS_INCLUDE})
target_link_libraries(gma_hiredis INTERFACE ${GMA_HIREDIS_LIBRARY})
if(GMA_WITH_GRPC)
  find_package(Protobuf REQUIRED)
  find_package(gRPC CONFIG REQUIRED)
endif()

set(GMA_WITH_CUDA OFF)
if(NOT GMA_CUDA STREQUAL "OFF" AND NOT GMA_SANITIZE)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)  # and PTX of the newest for what comes later
    enable_language(CUDA)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)  # which CMake 3.25 does not know of nvcc
    find_package(CUDAToolkit REQUIRED)
    set(GMA_WITH_CUDA ON)
  elseif(GMA_CUDA STREQUAL "ON")
    message(FATAL_ERROR "GMA_CUDA is ON and nvcc was not found: put it on the path, or set CUDACXX")
  endif()
endif()

if(GMA_WITH_TORCH)
  # Never find_package(Torch): it redefines protobuf::libprotobuf and puts old protobuf headers first.
  set(GMA_TORCH_DIR ${CMAKE_SOURCE_DIR}/.venv/lib/python3.11/site-packages/torch CACHE PATH
      "Folder of the torch package (with include/ and lib/)")
  if(NOT EXISTS ${GMA_TORCH_DIR}/lib/libtorch_cpu.so)
    message(FATAL_ERROR "LibTorch not found in ${GMA_TORCH_DIR}: run tools/setup, or set "
                        "GMA_TORCH_DIR, or configure with -DGMA_WITH_TORCH=OFF")
  endif()
  add_library(gma_torch_c10 SHARED IMPORTED)
  set_target_properties(gma_torch_c10 PROPERTIES IMPORTED_LOCATION ${GMA_TORCH_DIR}/lib/libc10.so)
  add_library(gma_torch_cpu SHARED IMPORTED)
  set_target_properties(gma_torch_cpu PROPERTIES
    IMPORTED_LOCATION ${GMA_TORCH_DIR}/lib/libtorch_cpu.so
    INTERFACE_LINK_LIBRARIES gma_torch_c10)
  target_include_directories(gma_torch_cpu SYSTEM INTERFACE
    ${GMA_TORCH_DIR}/include ${GMA_TORCH_DIR}/include/torch/csrc/api/include)
  if(GMA_WITH_CUDA AND EXISTS ${GMA_TORCH_DIR}/lib/libtorch_cuda.so)
    # It makes itself known when it is loaded; no symbol of it is named.
    target_link_options(gma_torch_cpu INTERFACE
      "LINKER:--no-as-needed,${GMA_TORCH_DIR}/lib/libtorch_cuda.so,--as-needed")
  endif()
endif()
