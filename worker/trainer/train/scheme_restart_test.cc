// Every scheme's factors hold after the build, after training, after loading and after resuming: the losses that a run
// reports are those of the equations, in float64, with the weights of its checkpoint.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <variant>
#include <vector>

#include "common/norm_scheme.h"
#include "worker/trainer/data/batch_reader.h"
#include "worker/trainer/model/testing/reference_model.h"
#include "worker/trainer/testing/tiny_dataset.h"
#include "worker/trainer/train/safetensors.h"
#include "worker/trainer/train/trainer.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;

struct Recorder : EventSink {
  void Emit(const TrainerEvent& event) override { events.push_back(event); }
  std::vector<TrainerEvent> events;
};

/// The loss that the run reported last.
double LastEval(const TrainerSpec& spec) {
  Recorder recorder;
  const std::atomic<bool> never = false;
  Trainer(spec, recorder, never).Run();
  double loss = -1;
  for (const TrainerEvent& event : recorder.events) {
    if (const auto* eval = std::get_if<EvalReport>(&event)) loss = eval->loss;
  }
  return loss;
}

/// The same by the equations.
double LossOfEquations(const TrainerSpec& spec, const std::string& checkpoint) {
  testing::Weights weights;
  const SafetensorsReader reader(fs::path(spec.checkpoint_dir) / checkpoint / "model.safetensors");
  for (const std::string& name : reader.Names()) {
    const std::vector<int64_t> shape = *reader.FindShape(name);
    const at::Tensor values = at::empty(shape, at::kFloat);
    reader.Read(name, shape, {values.mutable_data_ptr<float>(), static_cast<size_t>(values.numel())});
    weights[name] = values.to(at::kDouble);
  }
  BatchReader data(spec, TimeLimit(1));
  const int64_t rows = std::min(spec.run.report.eval_sequences, data.num_validation_rows());
  const at::Tensor inputs = at::empty({rows, spec.run.data.seq_len}, at::kLong), targets = at::empty_like(inputs);
  data.ReadValidation(0, rows, inputs.mutable_data_ptr<int64_t>(), targets.mutable_data_ptr<int64_t>());
  return testing::RunReference(spec.run.model, spec.run.norm, weights, inputs, targets).loss.item<double>();
}

class SchemeRestartTest : public ::testing::TestWithParam<NormScheme> {};

TEST_P(SchemeRestartTest, LossesAreThoseOfTheEquationsBeforeAndAfterAResume) {
  at::set_num_threads(1);
  const fs::path folder =
      fs::path(::testing::TempDir()) / fmt::format("scheme_restart_{}_{}", GetParam().name, getpid());
  fs::remove_all(folder);
  WriteTinyDataset(folder / "data");
  TrainerSpec spec = TinySpec(folder);
  spec.run.norm.scheme = GetParam().name;
  const double trained = LastEval(spec);
  EXPECT_NEAR(trained, LossOfEquations(spec, "step-00000012.attempt-001"), 2e-5);

  // A run that was done evaluates what it loaded; one that was not goes on from there.
  spec.attempt = 2;
  EXPECT_EQ(LastEval(spec), trained);
  fs::remove_all(fs::path(spec.checkpoint_dir) / "step-00000012.attempt-001");
  spec.attempt = 3;
  const double resumed = LastEval(spec);
  EXPECT_EQ(resumed, trained);
  EXPECT_NEAR(resumed, LossOfEquations(spec, "step-00000012.attempt-003"), 2e-5);
  fs::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(All, SchemeRestartTest, ::testing::ValuesIn(kNormSchemes),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace normlab::trainer
