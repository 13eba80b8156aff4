# Language, warnings, sanitizers, compiler cache and linker, for every target of ours.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

find_program(GMA_CCACHE ccache)
if(GMA_CCACHE)
  # Paths below the root are hashed as relative ones, so a second checkout finds the cache warm.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
                                  CCACHE_NOHASHDIR=true ${GMA_CCACHE})
endif()
find_program(GMA_MOLD mold)
if(GMA_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# Warnings are errors in our code; generated code and third-party headers are SYSTEM.
add_library(gma_warnings INTERFACE)
set(GMA_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wno-unused-parameter -Werror)
target_compile_options(gma_warnings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${GMA_WARNINGS}>")

# nvcc takes other options.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fstack-protector-strong>)
if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT GMA_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-O2> $<$<COMPILE_LANGUAGE:CXX>:-D_FORTIFY_SOURCE=2>)
endif()
if(GMA_SANITIZE STREQUAL "fuzzer")
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
                      -fno-omit-frame-pointer -g)
  add_link_options(-fsanitize=address,undefined)
elseif(GMA_SANITIZE)
  add_compile_options(-fsanitize=${GMA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
                      -O1 -g)
  add_link_options(-fsanitize=${GMA_SANITIZE})
endif()
