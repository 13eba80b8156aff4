# Target helpers: one library a folder, sources listed; includes start at the repository root.
include(GoogleTest)

# gma_library(name SOURCES a.cc ... DEPS lib ...): a static library; header-only without SOURCES.
function(gma_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE gma_warnings ${ARG_PRIVATE_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# gma_binary(name SOURCES a.cc ... DEPS lib ...): an executable in <build>/bin.
function(gma_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} gma_warnings)
endfunction()

# gma_test(name SOURCES a_test.cc ... DEPS lib ... [LABELS unit] [TIMEOUT 120] [ENVIRONMENT A=b]):
# a GoogleTest binary, run as one CTest test.
function(gma_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS;ENVIRONMENT" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main gma_warnings)
  target_compile_definitions(${name} PRIVATE GMA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 180)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
                       ENVIRONMENT "${ARG_ENVIRONMENT}")
endfunction()

# gma_pytest(name path [LABEL integration] [TIMEOUT 300]): one file or folder of pytest tests, from
# the root of the repository, with the programs of this build.
function(gma_pytest name path)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  if(NOT ARG_LABEL)
    set(ARG_LABEL integration)
  endif()
  add_test(NAME ${name} COMMAND ${CMAKE_SOURCE_DIR}/.venv/bin/python -m pytest -q -rs ${path}
           WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES
    TIMEOUT ${ARG_TIMEOUT} LABELS ${ARG_LABEL}
    ENVIRONMENT "GMA_BUILD_DIR=${CMAKE_BINARY_DIR};OMP_NUM_THREADS=2;TOKENIZERS_PARALLELISM=false")
endfunction()
