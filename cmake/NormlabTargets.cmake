# The few ways in which this project makes targets, so that warnings, include root and test discovery are the same everywhere.

set(NORMLAB_SANITIZE "" CACHE STRING "Comma-separated sanitizers for our own code: address,undefined or thread")

add_library(normlab_options INTERFACE)
target_include_directories(normlab_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(normlab_options INTERFACE -Wall -Wextra -Wno-missing-field-initializers -fno-omit-frame-pointer)
target_compile_definitions(normlab_options INTERFACE NORMLAB_VERSION="${PROJECT_VERSION}")
if(NORMLAB_SANITIZE)
  # vptr needs the type information of libraries that are not instrumented.
  target_compile_options(normlab_options INTERFACE -fsanitize=${NORMLAB_SANITIZE} -fno-sanitize=vptr -g1)
  target_link_options(normlab_options INTERFACE -fsanitize=${NORMLAB_SANITIZE})
  if(NORMLAB_SANITIZE MATCHES thread)
    # Under this macro protobuf's map_field.h has another layout than in Debian's library.
    target_compile_options(normlab_options INTERFACE -U__SANITIZE_THREAD__)
  endif()
endif()

# normlab_library(NAME SOURCES a.cc ... DEPS target ...)
function(normlab_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_link_libraries(${name} PUBLIC normlab_options ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE normlab_options ${ARG_DEPS})
  endif()
endfunction()

# normlab_program(NAME SOURCES main.cc DEPS target ...)
function(normlab_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE normlab_options ${ARG_DEPS})
endfunction()

# normlab_test(NAME SOURCES a_test.cc DEPS target ...): one GoogleTest program, each of its tests a ctest.
include(GoogleTest)
function(normlab_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE normlab_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 120)
endfunction()
