#include "worker/agent/device_probe.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/testing/temp_folder.h"

namespace normlab::agent {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

WorkerDevice Probe(const TempFolder& folder, const std::string& script, absl::Duration timeout = absl::Seconds(20)) {
  return ProbeDevice({.trainer = folder.Script("trainer", script).string(),
                      .driver_files = {folder.path().string()},
                      .timeout = timeout});
}

TEST(DeviceProbeTest, TakesTheGpuAndItsLabelsFromTheTrainer) {
  const TempFolder folder;
  const WorkerDevice device = Probe(folder, R"(test "$1" = --probe-device || exit 2
echo '{"device":"cuda","name":"NVIDIA H100 80GB HBM3","memory_bytes":85899345920,"lacks":""}')");
  EXPECT_EQ(device.name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(device.lacks, "");
  EXPECT_THAT(device.labels, ElementsAre(Pair("device", "cuda"), Pair("gpu", "NVIDIA-H100-80GB-HBM3")));
}

TEST(DeviceProbeTest, SaysWhatAGpuLacks) {
  const TempFolder folder;
  const WorkerDevice device =
      Probe(folder, R"(echo '{"device":"cpu","name":"cpu","lacks":"libcusparse.so.12: gone"}')");
  EXPECT_EQ(device.name, "cpu");
  EXPECT_EQ(device.lacks, "libcusparse.so.12: gone");
  EXPECT_THAT(device.labels, IsEmpty());
}

TEST(DeviceProbeTest, StartsNothingWithoutADriverFile) {
  const WorkerDevice device = ProbeDevice({.trainer = "/no/such/trainer", .driver_files = {"/no/such/driver"}});
  EXPECT_EQ(device.name, "cpu");
  EXPECT_EQ(device.lacks, "no NVIDIA driver: /no/such/driver does not exist");
}

TEST(DeviceProbeTest, TakesATrainerThatGivesNoAnswerForACpus) {
  const TempFolder folder;
  EXPECT_THAT(Probe(folder, "echo hello; exec sleep 1000").lacks, HasSubstr("'hello'"));
  EXPECT_THAT(Probe(folder, "exit 1").lacks, HasSubstr("did not say"));
  EXPECT_THAT(Probe(folder, "echo '[1]'").lacks, HasSubstr("did not say"));
  EXPECT_THAT(ProbeDevice({.trainer = "/no/such/trainer", .driver_files = {"/"}}).lacks, HasSubstr("/no/such/trainer"));
}

TEST(DeviceProbeTest, GivesUpOnATrainerThatHangs) {
  const TempFolder folder;
  EXPECT_THAT(Probe(folder, "exec sleep 1000", absl::Milliseconds(50)).lacks, HasSubstr("no answer within 50ms"));
}

}  // namespace
}  // namespace normlab::agent
