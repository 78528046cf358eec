#include "worker/trainer/device/run_device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <system_error>

#include "worker/trainer/device/driver.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;

/// Where the LibTorch lies that this process runs with.
fs::path TorchFolder() {
  Dl_info info = {};
  // Any function of libtorch_cpu.so.
  if (dladdr(reinterpret_cast<const void*>(&at::globalContext), &info) == 0 || info.dli_fname == nullptr) return {};
  return fs::path(info.dli_fname).parent_path();
}

/// Empty if it is loaded. Never unloaded: LibTorch registers itself in many places.
std::string Load(const fs::path& library) {
  return dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr ? "" : LastLoadError();
}

fs::path KernelLibrary() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return program.parent_path().parent_path() / "lib" / "libnormlab_cuda.so";
}

std::string LoadKernels() {
  const fs::path library = KernelLibrary();
  std::error_code error;
  if (!fs::exists(library, error)) return fmt::format("{} does not exist: a build without CUDA", library.string());
  return Load(library);
}

/// Empty if LibTorch has its CUDA part and finds the GPU.
std::string LoadTorchCuda() {
  if (std::string lacks = Load(TorchFolder() / "libtorch_cuda.so"); !lacks.empty()) {
    return fmt::format("LibTorch's CUDA part cannot be loaded: {}", lacks);
  }
  try {
    if (at::globalContext().hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0) return "";
    return "LibTorch's CUDA part finds no GPU";
  } catch (const std::exception& error) {
    const std::string text = error.what();
    return fmt::format("LibTorch's CUDA part does not start: {}", text.substr(0, text.find('\n')));
  }
}

struct Found {
  RunDevice device;
  std::optional<Gpu> gpu;
};

Found Find() {
  const DriverAnswer driver = AskDriver();
  if (!driver.gpu) return {.device = {.lacks = driver.lacks}};
  if (std::string lacks = LoadTorchCuda(); !lacks.empty()) {
    return {.device = {.lacks = fmt::format("{}: {}", driver.gpu->name, lacks)}, .gpu = driver.gpu};
  }
  return {.device = {.device = c10::Device(c10::kCUDA, 0),
                     .name = driver.gpu->name,
                     .memory_bytes = driver.gpu->memory_bytes,
                     .kernels_lack = LoadKernels(),
                     .is_narrow = true},
          .gpu = driver.gpu};
}

}  // namespace

RunDevice FindDevice() { return Find().device; }

RunDevice OpenDevice(const std::string& wish, EventSink& events) {
  if (wish == "cpu") return {};
  // Without it cuBLAS gives other bits from run to run; read when it starts.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  RunDevice device = FindDevice();
  if (device.is_cuda()) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    if (!device.kernels_lack.empty()) {
      events.Emit(LogLine{.severity = Severity::kWarning,
                          .text = fmt::format("normlab's CUDA kernels are not used, LibTorch's own operations are: {}",
                                              device.kernels_lack)});
    }
    return device;
  }
  if (wish == "cuda") {
    throw std::runtime_error(
        fmt::format("resources.device is cuda, but this worker can use no GPU: {}. Select workers that have one with "
                    "resources.worker_labels {{device: cuda}}, or let device be auto",
                    device.lacks));
  }
  // A host without a GPU was never meant to compute on one.
  if (AskDriver().gpu) {
    events.Emit(LogLine{.severity = Severity::kWarning, .text = fmt::format("training on the CPU: {}", device.lacks)});
  }
  return device;
}

int64_t PeakDeviceBytes(const RunDevice& device) {
  if (!device.is_cuda()) return 0;
  const auto stats = at::getDeviceAllocator(device.device.type())->getDeviceStats(device.device.index());
  return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}

std::string ProbeLine() {
  const Found found = Find();
  const nlohmann::ordered_json line = {
      {"device", found.device.is_cuda() ? "cuda" : "cpu"},
      {"name", found.device.name},
      {"memory_bytes", found.device.memory_bytes},
      {"compute_capability", found.gpu ? fmt::format("{}.{}", found.gpu->major, found.gpu->minor) : ""},
      {"torch", TORCH_VERSION},
      {"lacks", found.device.lacks},
      {"kernels_lack", found.device.kernels_lack}};
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace normlab::trainer
