# The few ways in which this project makes targets, so that warnings, include root and test discovery are the same everywhere.

set(NORMLAB_SANITIZE "" CACHE STRING "Comma-separated sanitizers for our own code: address,undefined or thread")

# Apart from the other options, because generated code is instrumented, too, but gets none of the warnings.
add_library(normlab_sanitizers INTERFACE)
if(NORMLAB_SANITIZE)
  # vptr needs the type information of libraries that are not instrumented.
  target_compile_options(normlab_sanitizers INTERFACE -fsanitize=${NORMLAB_SANITIZE} -fno-sanitize=vptr -g1)
  target_link_options(normlab_sanitizers INTERFACE -fsanitize=${NORMLAB_SANITIZE})
endif()
if(NORMLAB_SANITIZE MATCHES undefined)
  # A finding fails the test instead of being a line in its log.
  target_compile_options(normlab_sanitizers INTERFACE -fno-sanitize-recover=undefined)
  target_compile_definitions(normlab_sanitizers INTERFACE _GLIBCXX_ASSERTIONS)
endif()
if(NORMLAB_SANITIZE MATCHES thread)
  # Under this macro protobuf's map_field.h has another layout than in Debian's library.
  target_compile_options(normlab_sanitizers INTERFACE -U__SANITIZE_THREAD__)
  find_package(absl CONFIG REQUIRED)
  add_library(normlab_tsan_handovers OBJECT ${CMAKE_SOURCE_DIR}/tests/sanitizers/tsan_handovers.cc)
  target_link_libraries(normlab_tsan_handovers PRIVATE normlab_sanitizers absl::status absl::synchronization)
endif()

add_library(normlab_options INTERFACE)
target_include_directories(normlab_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(normlab_options INTERFACE -Wall -Wextra -Wno-missing-field-initializers -fno-omit-frame-pointer)
target_compile_definitions(normlab_options INTERFACE NORMLAB_VERSION="${PROJECT_VERSION}")
target_link_libraries(normlab_options INTERFACE normlab_sanitizers)

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

# What an executable needs beside its libraries.
function(normlab_finish_executable name)
  if(TARGET normlab_tsan_handovers)
    target_sources(${name} PRIVATE $<TARGET_OBJECTS:normlab_tsan_handovers>)
    target_link_libraries(${name} PRIVATE absl::status absl::synchronization ${CMAKE_DL_LIBS})
  endif()
endfunction()

# normlab_program(NAME SOURCES main.cc DEPS target ...)
function(normlab_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE normlab_options ${ARG_DEPS})
  normlab_finish_executable(${name})
endfunction()

# normlab_test(NAME SOURCES a_test.cc DEPS target ...): one GoogleTest program, each of its tests a ctest.
include(GoogleTest)
function(normlab_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE normlab_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  normlab_finish_executable(${name})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  # Tests run side by side: threads of several pools would wait for each other.
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 120 ENVIRONMENT OMP_NUM_THREADS=1)
endfunction()
