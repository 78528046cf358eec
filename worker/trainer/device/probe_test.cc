// The program's own answer to what it computes on, with and without a driver.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "worker/trainer/device/gpu_table.h"

namespace normlab::trainer {
namespace {

using testing::HasSubstr;

nlohmann::json Probe(const std::string& environment) {
  const std::string command = "env " + environment + " " NORMLAB_TRAIN " --probe-device";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "re"), pclose);
  std::string text(1 << 14, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), pipe.get()));
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

const std::string kWithDriver = "LD_LIBRARY_PATH=" NORMLAB_FAKE_DRIVER_FOLDER " ";

TEST(ProbeTest, NamesTheMissingDriverWhereThereIsNone) {
  // Also on a host that has one: an empty file of that name is found first and is no library.
  const nlohmann::json answer = Probe("LD_LIBRARY_PATH=" NORMLAB_NO_DRIVER_FOLDER);
  EXPECT_EQ(answer["device"], "cpu");
  EXPECT_EQ(answer["name"], "cpu");
  EXPECT_THAT(answer["lacks"], HasSubstr("no NVIDIA driver"));
  EXPECT_THAT(answer["lacks"], HasSubstr("libcuda.so.1"));
}

TEST(ProbeTest, SaysWhatTheDriverSaysWhenItDoesNotStart) {
  EXPECT_EQ(Probe(kWithDriver + "FAKE_DRIVER_INIT=100")["lacks"],
            "the NVIDIA driver's cuInit gives 100 (no CUDA-capable device is detected)");
}

TEST(ProbeTest, RefusesADriverThatIsTooOldForLibTorch) {
  const nlohmann::json answer = Probe(kWithDriver + "FAKE_DRIVER_VERSION=12040");
  EXPECT_EQ(answer["device"], "cpu");
  EXPECT_THAT(answer["lacks"], HasSubstr("is for CUDA 12.4, LibTorch needs 13.0"));
}

TEST(ProbeTest, SaysThatNoGpuIsVisible) {
  EXPECT_THAT(Probe(kWithDriver + "FAKE_DRIVER_COUNT=0")["lacks"], HasSubstr("sees no GPU"));
}

TEST(ProbeTest, NamesTheLibraryThatAGpuLacks) {
  // Torch's CUDA part is there or, in a CPU-only folder, lacks one of NVIDIA's libraries; no real GPU answers either.
  const nlohmann::json answer = Probe(kWithDriver);
  EXPECT_EQ(answer["device"], "cpu");
  EXPECT_THAT(answer["lacks"], HasSubstr("Fake H100 0: LibTorch's CUDA part"));
  EXPECT_EQ(answer["compute_capability"], "9.0");
}

TEST(GpuTableTest, KnowsAGpuByTheWordsOfItsName) {
  EXPECT_EQ(FindGpu("NVIDIA H100 80GB HBM3")->bf16_flops, 989e12);
  EXPECT_EQ(FindGpu("NVIDIA H100 PCIe")->bf16_flops, 756e12);
  EXPECT_EQ(FindGpu("NVIDIA A100-SXM4-80GB")->bf16_flops, 312e12);
  EXPECT_EQ(FindGpu("NVIDIA RTX 6000 Ada Generation")->name, "RTX 6000 Ada");
  EXPECT_EQ(FindGpu("NVIDIA A10G"), nullptr) << "another chip than the A10";
  EXPECT_EQ(FindGpu("NVIDIA GeForce GTX 1080"), nullptr);
}

}  // namespace
}  // namespace normlab::trainer
