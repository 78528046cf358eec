#include "coordinator/service/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/service/listen_address.h"
#include "coordinator/service/testing/sample_commands.h"

namespace normlab::service {
namespace {

using ::testing::HasSubstr;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(SelectorTest, NamesTheRunIdThatIsNone) {
  v1::RunSelector selector;
  selector.add_run_ids("exp-0001.02");
  selector.add_run_ids("run-7");
  EXPECT_THAT(MessageOf(ToSelector(selector).status()), HasSubstr("selector.run_ids[1]: 'run-7' is no run id"));
}

TEST(SelectorTest, HasItsRunsInOrderAndOnce) {
  v1::RunSelector selector;
  for (const char* id : {"exp-0002.01", "exp-0001.02", "exp-0002.01"}) selector.add_run_ids(id);
  EXPECT_THAT(ToSelector(selector)->runs, ::testing::ElementsAre(RunId{{1}, 2}, RunId{{2}, 1}));
}

TEST(CancelTest, RefusesAnEmptySelector) {
  v1::CancelRunsRequest request;
  request.set_actor("ada");
  EXPECT_THAT(MessageOf(ToCommand(request).status()), HasSubstr("selector: is empty"));
}

TEST(CreateTest, SaysEveryViolationWithItsField) {
  v1::CreateExperimentRequest request;
  *request.mutable_spec() = MakeSpec();
  request.set_owner("ada");
  request.set_request_id("q");
  request.mutable_spec()->mutable_base()->mutable_model()->set_hidden(1);
  request.mutable_spec()->clear_name();
  const absl::Status status = ToCommand(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(status), HasSubstr("base.model.hidden"));
  EXPECT_THAT(MessageOf(status), HasSubstr("name"));
}

TEST(CreateTest, GivesEachRunItsAxesAndItsNumbers) {
  v1::CreateExperimentRequest request;
  *request.mutable_spec() = MakeSpec();
  request.set_owner("ada");
  request.set_request_id("q");
  const auto command = ToCommand(request);
  ASSERT_TRUE(command.ok()) << command.status();
  ASSERT_EQ(command->runs.size(), 2u);
  EXPECT_EQ(command->runs[1].axes.at("norm.scheme"), "lns");
  EXPECT_EQ(command->runs[1].steps, 10);
  EXPECT_EQ(command->runs[1].world_size, 1);
  EXPECT_EQ(command->runs[1].retries_max, 3);
}

TEST(CreateTest, HasOneDigestHoweverDefaultsAreWritten) {
  v1::CreateExperimentRequest request;
  *request.mutable_spec() = MakeSpec();
  request.set_owner("ada");
  request.set_request_id("q");
  const std::string digest = ToCommand(request)->spec_digest;
  request.mutable_spec()->set_priority(0);
  EXPECT_EQ(ToCommand(request)->spec_digest, digest);
}

TEST(ReportTest, RefusesAReportWithoutASequence) {
  v1::AttemptReport report;
  report.mutable_attempt()->set_run_id("exp-0001.01");
  report.mutable_exit()->set_code(0);
  EXPECT_THAT(MessageOf(ToCommand(report, {"w"}, "i").status()), HasSubstr("report.sequence: is 0"));
}

TEST(ReportTest, TellsASignalFromACode) {
  v1::AttemptReport report;
  report.set_sequence(1);
  report.mutable_attempt()->set_run_id("exp-0001.01");
  report.mutable_exit()->set_signal(9);
  const auto command = ToCommand(report, {"w"}, "i");
  ASSERT_TRUE(command.ok());
  const auto& exited = std::get<engine::TrainerExited>(command->report);
  EXPECT_EQ(exited.signal, 9);
  EXPECT_FALSE(exited.code.has_value());
}

TEST(ReportTest, CutsLongWordsBetweenCharacters) {
  EXPECT_EQ(Cut("ab\xc3\xa4", 3), "ab");
  EXPECT_EQ(Cut("ab\xc3\xa4", 4), "ab\xc3\xa4");
  EXPECT_EQ(Cut("abcd", 3), "abc");
}

TEST(ConvertTest, ARunStoredBeforeAFieldExistedStartsWithItsDefault) {
  v1::RunSpec old;
  old.mutable_model()->set_num_layers(3);
  const v1::CoordinatorMessage message = ToMessage(engine::SendStart{.spec = old.SerializeAsString()});
  EXPECT_EQ(message.start().spec().model().num_layers(), 3);
  EXPECT_EQ(message.start().spec().norm().scheme(), "pre_ln");
  EXPECT_TRUE(message.start().spec().train().has_optimizer());
}

TEST(ListenAddressTest, IsNumericAndKnowsTheLoopback) {
  EXPECT_EQ(ParseListenAddress("localhost:7070")->ToString(), "127.0.0.1:7070");
  EXPECT_EQ(ParseListenAddress("[::1]:0")->ToString(), "[::1]:0");
  EXPECT_TRUE(ParseListenAddress("127.9.9.9:1")->is_loopback());
  EXPECT_TRUE(ParseListenAddress("[::1]:1")->is_loopback());
  for (const char* text : {"0.0.0.0:7070", "[::]:7070", "192.0.2.1:7070"}) {
    EXPECT_FALSE(ParseListenAddress(text)->is_loopback()) << text;
  }
  for (const char* text : {"", ":1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", "example.org:7070"}) {
    EXPECT_EQ(ParseListenAddress(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace normlab::service
