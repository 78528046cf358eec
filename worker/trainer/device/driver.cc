#include "worker/trainer/device/driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstddef>

namespace normlab::trainer {
namespace {

constexpr int kCudaNeeded = 13000;                           // As the driver counts: 1000 * major + 10 * minor.
constexpr int kCapabilityMajor = 75, kCapabilityMinor = 76;  // CUdevice_attribute

/// A function of the driver, or null with `*lacks` set.
template <typename Function>
Function* Find(void* driver, const char* name, std::string* lacks) {
  void* const found = dlsym(driver, name);
  if (found == nullptr && lacks->empty())
    *lacks = fmt::format("the NVIDIA driver has no {}: {}", name, LastLoadError());
  return reinterpret_cast<Function*>(found);
}

struct Driver {
  int (*init)(unsigned);
  int (*version)(int*);
  int (*count)(int*);
  int (*get)(int*, int);
  int (*name)(char*, int, int);
  int (*memory)(size_t*, int);
  int (*attribute)(int*, int, int);
  int (*error_text)(int, const char**);
};

Driver FindAll(void* library, std::string* lacks) {
  return {.init = Find<int(unsigned)>(library, "cuInit", lacks),
          .version = Find<int(int*)>(library, "cuDriverGetVersion", lacks),
          .count = Find<int(int*)>(library, "cuDeviceGetCount", lacks),
          .get = Find<int(int*, int)>(library, "cuDeviceGet", lacks),
          .name = Find<int(char*, int, int)>(library, "cuDeviceGetName", lacks),
          .memory = Find<int(size_t*, int)>(library, "cuDeviceTotalMem_v2", lacks),
          .attribute = Find<int(int*, int, int)>(library, "cuDeviceGetAttribute", lacks),
          .error_text = Find<int(int, const char**)>(library, "cuGetErrorString", lacks)};
}

/// What a failed call says; empty after a good one.
std::string Failure(const Driver& driver, const char* call, int error) {
  if (error == 0) return "";
  const char* text = nullptr;
  driver.error_text(error, &text);
  return fmt::format("the NVIDIA driver's {} gives {} ({})", call, error, text != nullptr ? text : "unknown error");
}

DriverAnswer Ask(const Driver& driver) {
  if (std::string lacks = Failure(driver, "cuInit", driver.init(0)); !lacks.empty()) return {.lacks = lacks};
  int version = 0, count = 0;
  driver.version(&version);
  if (version < kCudaNeeded) {
    return {.lacks =
                fmt::format("the NVIDIA driver is for CUDA {}.{}, LibTorch needs {}.{}: install driver 580 or newer",
                            version / 1000, version % 1000 / 10, kCudaNeeded / 1000, kCudaNeeded % 1000 / 10)};
  }
  if (std::string lacks = Failure(driver, "cuDeviceGetCount", driver.count(&count)); !lacks.empty()) {
    return {.lacks = lacks};
  }
  if (count == 0) return {.lacks = "the NVIDIA driver sees no GPU (is CUDA_VISIBLE_DEVICES empty?)"};
  int device = 0;
  size_t memory = 0;
  std::array<char, 256> name = {};
  Gpu gpu;
  for (const auto& [call, error] :
       {std::pair("cuDeviceGet", driver.get(&device, 0)),
        std::pair("cuDeviceGetName", driver.name(name.data(), name.size() - 1, device)),
        std::pair("cuDeviceTotalMem", driver.memory(&memory, device)),
        std::pair("cuDeviceGetAttribute", driver.attribute(&gpu.major, kCapabilityMajor, device)),
        std::pair("cuDeviceGetAttribute", driver.attribute(&gpu.minor, kCapabilityMinor, device))}) {
    if (std::string lacks = Failure(driver, call, error); !lacks.empty()) return {.lacks = lacks};
  }
  gpu.name = name.data();
  gpu.memory_bytes = static_cast<int64_t>(memory);
  return {.gpu = gpu};
}

}  // namespace

std::string LastLoadError() {
  const char* text = dlerror();
  return text != nullptr ? text : "unknown error";
}

DriverAnswer AskDriver() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {.lacks = fmt::format("no NVIDIA driver: {}", LastLoadError())};
  DriverAnswer answer;
  const Driver driver = FindAll(library, &answer.lacks);
  return answer.lacks.empty() ? Ask(driver) : answer;
}

}  // namespace normlab::trainer
