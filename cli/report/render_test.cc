#include "cli/report/render.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli/report/testing/sample_runs.h"

namespace normlab::report {
namespace {

using ::testing::HasSubstr;
using testing::MakeRun;
using ::testing::Not;

Report Sample() {
  Input input;
  input.experiment.set_id("exp-0007");
  input.experiment.mutable_spec()->set_name("norms <on> docs");
  input.experiment.set_num_runs(4);
  for (const char* seed : {"1", "2"}) {
    for (const auto& [scheme, loss] : {std::pair("pre_ln", 4.0), std::pair("lns", 3.75)}) {
      input.runs.push_back(MakeRun({{"norm.scheme", scheme}, {"seed", seed}}, loss + 0.25 * (seed[0] - '0')));
      input.runs.back().history = testing::LayerHistory({10, 20}, {1, 2, 4});
    }
  }
  return *MakeReport(input, "");
}

TEST(RenderTest, ThePageIsOneFileThatLoadsNothing) {
  const std::string html = ToHtml(Sample());
  EXPECT_THAT(html, HasSubstr("norms &lt;on&gt; docs"));
  for (const char* outside : {"<script", "http://", "https://", "@import", "url(", "<link", "<img"}) {
    EXPECT_THAT(html, Not(HasSubstr(outside)));
  }
}

TEST(RenderTest, IsTheSameBytesForTheSameReport) {
  EXPECT_EQ(ToHtml(Sample()), ToHtml(Sample()));
  EXPECT_EQ(ToMarkdown(Sample()), ToMarkdown(Sample()));
  EXPECT_EQ(ToJson(Sample()), ToJson(Sample()));
}

TEST(RenderTest, SaysThatTwoSeedsAreFew) { EXPECT_THAT(ToHtml(Sample()), HasSubstr("2 seeds: differences")); }

TEST(RenderTest, TextOfUsersCannotBecomeMarkdown) {
  Report report = Sample();
  report.experiment.mutable_spec()->set_name(R"(a|b*c_d<e`f[g](h)\i)");
  EXPECT_THAT(ToMarkdown(report), HasSubstr(R"(# a\|b\*c\_d\<e\`f\[g](h)\\i)"));
}

TEST(RenderTest, ArmsThatShareAColourDifferInTheirMarker) {
  Input input;
  for (int arm = 0; arm < 9; ++arm) {
    input.runs.push_back(MakeRun({{"norm.scheme", std::string(1, static_cast<char>('a' + arm))}}, 4 + 0.1 * arm));
    input.runs.back().history = testing::LossHistory({6, 5, 4});
  }
  const std::string html = ToHtml(*MakeReport(input, ""));
  EXPECT_THAT(html, HasSubstr("<i style=\"background:var(--c0)\"></i>a</li>"));
  EXPECT_THAT(html, HasSubstr("<i style=\"background:var(--c0)\"></i><b style=\"color:var(--c0)\">●</b> i</li>"));
  EXPECT_THAT(html, HasSubstr("class=\"marker\""));
}

TEST(RenderTest, WhatRetentionRemovedIsEmptyOrNull) {
  Input input{.runs = {MakeRun({{"norm.scheme", "lns"}}, 4)}};
  input.runs[0].has_events_expired = true;
  const Report report = *MakeReport(input, "");
  EXPECT_THAT(ToCsv(report), HasSubstr("exp-0001.01,lns,,succeeded,4,1,0,\n"));
  EXPECT_TRUE(nlohmann::json::parse(ToJson(report))["arms"][0]["groups"][0]["runs"][0]["worker_hours"].is_null());
}

TEST(RenderTest, CsvHasOneLinePerRun) {
  const std::string csv = ToCsv(Sample());
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 5);
  EXPECT_THAT(csv, HasSubstr("exp-0001.01,lns,,succeeded,4,1,0,0\n"));
}

TEST(RenderTest, JsonHasNullForWhatIsNotKnown) {
  const auto json = nlohmann::json::parse(ToJson(Sample()));
  EXPECT_EQ(json["arms"][0]["arm"], "lns");
  EXPECT_TRUE(json["arms"][0]["groups"][0]["lr"].is_null());
  EXPECT_TRUE(json["comparisons"][0]["comparisons"][0]["p"].is_null());  // Both differences are equal.
  EXPECT_NEAR(json["comparisons"][0]["comparisons"][0]["difference"]["mean"], -0.25, 1e-12);
}

}  // namespace
}  // namespace normlab::report
