#include "worker/agent/report_queue.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace normlab::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

v1::AttemptReport Step(int64_t step) {
  v1::AttemptReport report;
  report.mutable_event()->mutable_step()->set_step(step);
  return report;
}

v1::AttemptReport Layers(int64_t step) {
  v1::AttemptReport report;
  report.mutable_event()->mutable_layers()->set_step(step);
  return report;
}

v1::AttemptReport Log(const std::string& text) {
  v1::AttemptReport report;
  report.mutable_event()->mutable_log()->set_text(text);
  return report;
}

v1::AttemptReport Checkpoint(int64_t step) {
  v1::AttemptReport report;
  report.mutable_event()->mutable_checkpoint()->set_step(step);
  return report;
}

v1::AttemptReport Exit() {
  v1::AttemptReport report;
  report.mutable_exit()->set_code(0);
  return report;
}

/// Takes all unsent reports, as a stream would.
std::vector<v1::AttemptReport> SendAll(ReportQueue& queue) {
  std::vector<v1::AttemptReport> sent;
  while (const v1::AttemptReport* report = queue.NextUnsent()) {
    sent.push_back(*report);
    queue.MarkSent();
  }
  return sent;
}

std::vector<int64_t> Sequences(const std::vector<v1::AttemptReport>& reports) {
  std::vector<int64_t> sequences;
  for (const auto& report : reports) sequences.push_back(report.sequence());
  return sequences;
}

constexpr size_t kPlenty = 1 << 20;

TEST(ReportQueueTest, NumbersFromOneAndSendsEachOncePerStream) {
  ReportQueue queue(kPlenty);
  EXPECT_EQ(queue.Add(Step(7)), 1);
  EXPECT_EQ(queue.Add(Step(8)), 2);
  EXPECT_THAT(Sequences(SendAll(queue)), ElementsAre(1, 2));
  EXPECT_THAT(SendAll(queue), IsEmpty());
  EXPECT_EQ(queue.pending(), 2u);
}

TEST(ReportQueueTest, SendsAllThatIsNotAcknowledgedAgainOnANewStream) {
  ReportQueue queue(kPlenty);
  for (int step = 1; step <= 4; ++step) queue.Add(Step(step));
  SendAll(queue);
  queue.Ack(2);
  queue.ResendAll();
  EXPECT_THAT(Sequences(SendAll(queue)), ElementsAre(3, 4));
}

TEST(ReportQueueTest, AnAcknowledgementWhileSomeAreUnsentSkipsNone) {
  ReportQueue queue(kPlenty);
  for (int step = 1; step <= 4; ++step) queue.Add(Step(step));
  queue.MarkSent();
  queue.MarkSent();
  queue.Ack(1);
  EXPECT_THAT(Sequences(SendAll(queue)), ElementsAre(3, 4));
}

TEST(ReportQueueTest, AnAcknowledgementOfWhatWasNotSentOnThisStreamIsTaken) {
  ReportQueue queue(kPlenty);
  for (int step = 1; step <= 3; ++step) queue.Add(Step(step));
  SendAll(queue);
  queue.ResendAll();
  queue.Ack(2);
  EXPECT_THAT(Sequences(SendAll(queue)), ElementsAre(3));
  queue.Ack(100);
  EXPECT_EQ(queue.pending(), 0u);
  EXPECT_EQ(queue.bytes(), 0u);
}

TEST(ReportQueueTest, HalvesTheResolutionOfStepsAndLayersWhenItIsFull) {
  ReportQueue queue(kPlenty);
  for (int step = 1; step <= 8; ++step) queue.Add(step % 2 == 0 ? Layers(step) : Step(step));
  const size_t bytes = queue.bytes();
  ReportQueue full(bytes);
  for (int step = 1; step <= 8; ++step) full.Add(step % 2 == 0 ? Layers(step) : Step(step));
  EXPECT_EQ(full.num_dropped(), 0);
  full.Add(Checkpoint(8));
  // Of the steps 1 3 5 7 and of the layers 2 4 6 8, every second one; the last of each stays.
  EXPECT_THAT(Sequences(SendAll(full)), ElementsAre(3, 4, 7, 8, 9));
  EXPECT_EQ(full.num_dropped(), 4);
}

TEST(ReportQueueTest, DropsTheOlderHalfOfLogs) {
  ReportQueue one(kPlenty);
  one.Add(Log("x"));
  ReportQueue queue(4 * one.bytes());
  for (int i = 0; i < 5; ++i) queue.Add(Log("x"));
  EXPECT_THAT(Sequences(SendAll(queue)), ElementsAre(3, 4, 5));
}

TEST(ReportQueueTest, NeverDropsHowItEnded) {
  ReportQueue queue(/*bytes_max=*/1000);
  std::vector<int64_t> kept;
  for (int step = 1; step <= 1000; ++step) {
    queue.Add(Step(step));
    if (step % 100 == 0) kept.push_back(queue.Add(Checkpoint(step)));
  }
  kept.push_back(queue.Add(Exit()));
  std::vector<int64_t> found;
  for (const auto& report : SendAll(queue)) {
    if (!report.event().has_step()) found.push_back(report.sequence());
  }
  EXPECT_EQ(found, kept);
  EXPECT_EQ(queue.num_dropped() + static_cast<int64_t>(queue.pending()), 1011);
}

TEST(ReportQueueTest, StaysWithinTwiceWhatItMustKeep) {
  ReportQueue queue(/*bytes_max=*/10'000);
  for (int step = 1; step <= 10'000; ++step) queue.Add(Step(step));
  EXPECT_LE(queue.bytes(), 20'000u);
}

TEST(ReportQueueTest, ThinningKeepsThePlaceOfTheStream) {
  ReportQueue probe(kPlenty);
  for (int step = 1; step <= 4; ++step) probe.Add(Step(step));
  ReportQueue queue(probe.bytes());
  for (int step = 1; step <= 4; ++step) queue.Add(Step(step));
  queue.MarkSent();
  queue.MarkSent();
  queue.Add(Step(5));  // Drops 1, 3 and 5: the odd ones of what waits.
  EXPECT_THAT(Sequences(SendAll(queue)), ElementsAre(4));
}

}  // namespace
}  // namespace normlab::agent
