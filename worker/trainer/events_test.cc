#include "worker/trainer/events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <limits>

#include "common/durable_file.h"

namespace normlab::trainer {
namespace {

TEST(EventsTest, AreOneLineOfProtoJsonWithTheFieldsNames) {
  EXPECT_EQ(
      ToJsonLine(StepReport{.step = 3,
                            .loss = 2.5,
                            .lr = 0.5,
                            .grad_norm = 1.5,
                            .tokens = 96,
                            .tokens_per_second = 10.5,
                            .step_seconds = 0.25,
                            .clipped = true,
                            .clip_fraction = 0.5,
                            .data_seconds = 0.125,
                            .memory_bytes = 7}),
      "{\"step\":{\"step\":3,\"loss\":2.5,\"lr\":0.5,\"grad_norm\":1.5,\"tokens\":96,\"tokens_per_second\":10.5,"
      "\"step_seconds\":0.25,\"clipped\":true,\"clip_fraction\":0.5,\"data_seconds\":0.125,\"forward_seconds\":0.0,"
      "\"backward_seconds\":0.0,\"communication_seconds\":0.0,\"optimizer_seconds\":0.0,\"checkpoint_seconds\":0.0,"
      "\"cpu_seconds\":0.0,\"memory_bytes\":7,\"flops_utilization\":0.0}}\n");
  EXPECT_EQ(ToJsonLine(LayerReport{.step = 1, .layers = {{.layer = 1, .output_variance = 0.5}}}),
            "{\"layers\":{\"step\":1,\"layers\":[{\"layer\":1,\"output_variance\":0.5,\"output_mean_square\":0.0,"
            "\"attention_mean_square\":0.0,\"ffn_mean_square\":0.0,\"grad_norm\":0.0,\"weight_norm\":0.0,\"output_"
            "variance_median\":0.0,"
            "\"output_max_abs\":0.0,\"attention_variance\":0.0,\"ffn_variance\":0.0,\"stream_grad_ratio\":0.0}]}}\n");
  EXPECT_EQ(ToJsonLine(LogLine{.severity = Severity::kWarning, .text = "a\nb"}),
            "{\"log\":{\"severity\":\"WARNING\",\"text\":\"a\\nb\"}}\n");
}

TEST(EventsTest, NumbersThatAreNotFiniteAreTextAsProtoJsonWants) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(ToJsonLine(EvalReport{.step = 1, .loss = std::numeric_limits<double>::quiet_NaN(), .perplexity = infinity}),
            "{\"eval\":{\"step\":1,\"loss\":\"NaN\",\"perplexity\":\"Infinity\",\"tokens\":0,\"batches\":0,"
            "\"perplexity_official\":0.0}}\n");
  EXPECT_EQ(ToJsonLine(EvalReport{.step = 1, .loss = -infinity, .perplexity = 0}),
            "{\"eval\":{\"step\":1,\"loss\":\"-Infinity\",\"perplexity\":0.0,\"tokens\":0,\"batches\":0,\"perplexity_"
            "official\":0.0}}\n");
}

TEST(EventsTest, BytesThatAreNotUtf8DoNotBreakTheLine) {
  EXPECT_EQ(ToJsonLine(Failed{.message = "bad \xff", .step = 0, .retryable = false}),
            "{\"failed\":{\"message\":\"bad \xEF\xBF\xBD\",\"step\":0,\"retryable\":false}}\n");
}

TEST(EventsTest, AReaderThatIsGoneIsAnError) {
  std::signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  JsonLineSink sink(ends[1]);
  EXPECT_THROW(sink.Emit(Stopped{.step = 1}), FileError);
  close(ends[1]);
}

TEST(EventsTest, ALayerSaysWhatOnlySomeLayersHave) {
  EXPECT_THAT(ToJsonLine(LayerReport{.step = 1, .layers = {{.layer = 1, .dropped_ratio = 0.25, .gate = 0.5}}}),
              ::testing::HasSubstr("\"dropped_ratio\":0.25,\"gate\":0.5"));
}

}  // namespace
}  // namespace normlab::trainer
