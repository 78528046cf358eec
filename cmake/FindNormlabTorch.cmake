# LibTorch as it lies inside the PyPI torch wheel, CPU part only: gives normlab::torch_cpu.
#
# The wheel's own TorchConfig.cmake asks for a CUDA toolkit and links libtorch.so, which needs every CUDA library. A CPU
# program needs libtorch_cpu and libc10 alone.
# Input: NORMLAB_TORCH_SITE, the folder that holds torch/ and nvidia/ (made by ./dev setup).
set(NORMLAB_TORCH_SITE ${CMAKE_SOURCE_DIR}/.deps/torch CACHE PATH "Folder that holds torch/ and nvidia/")
find_path(NORMLAB_TORCH_ROOT include/torch/csrc/api/include/torch/torch.h HINTS ${NORMLAB_TORCH_SITE}/torch NO_DEFAULT_PATH)
find_library(NORMLAB_TORCH_CPU_LIB torch_cpu HINTS ${NORMLAB_TORCH_ROOT}/lib NO_DEFAULT_PATH)
find_library(NORMLAB_C10_LIB c10 HINTS ${NORMLAB_TORCH_ROOT}/lib NO_DEFAULT_PATH)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NormlabTorch REQUIRED_VARS NORMLAB_TORCH_ROOT NORMLAB_TORCH_CPU_LIB NORMLAB_C10_LIB
                                  REASON_FAILURE_MESSAGE "run ./dev setup")
if(NormlabTorch_FOUND AND NOT TARGET normlab::torch_cpu)
  find_package(Threads REQUIRED)
  add_library(normlab_torch_headers INTERFACE)
  # -idirafter: the wheel carries protobuf 3.13 and its own fmt; the system's must win.
  target_compile_options(normlab_torch_headers INTERFACE
    "SHELL:-idirafter ${NORMLAB_TORCH_ROOT}/include"
    "SHELL:-idirafter ${NORMLAB_TORCH_ROOT}/include/torch/csrc/api/include")
  target_compile_definitions(normlab_torch_headers INTERFACE USE_DISTRIBUTED USE_C10D_GLOO USE_RPC USE_TENSORPIPE)
  add_library(normlab::c10 SHARED IMPORTED)
  set_target_properties(normlab::c10 PROPERTIES IMPORTED_LOCATION ${NORMLAB_C10_LIB})
  add_library(normlab::torch_cpu SHARED IMPORTED)
  set_target_properties(normlab::torch_cpu PROPERTIES IMPORTED_LOCATION ${NORMLAB_TORCH_CPU_LIB})
  target_link_libraries(normlab::torch_cpu INTERFACE normlab_torch_headers normlab::c10 Threads::Threads)
  target_link_options(normlab::torch_cpu INTERFACE
    "LINKER:-rpath-link,${NORMLAB_TORCH_ROOT}/lib" "LINKER:-rpath-link,${NORMLAB_TORCH_SITE}/nvidia/cu13/lib"
    "LINKER:-rpath,${NORMLAB_TORCH_ROOT}/lib" "LINKER:-rpath,${NORMLAB_TORCH_SITE}/nvidia/cu13/lib")
endif()
