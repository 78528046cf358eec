// normlab-peer-dump: what the model computes, written down for tests/peers to hold against transformers.
//
//   inputs [n, seq], targets [n, seq] (as float32), logits [n, seq, vocab], loss [1], "state.L" [n * seq, hidden] for
//   L = 0 (the embedding) to the number of layers, "grad.NAME" for every parameter
#include <ATen/ops/full.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <deque>

#include "worker/trainer/diagnostics/probe.h"
#include "worker/trainer/train/safetensors.h"

namespace normlab::trainer {
namespace {

/// Arrays with the memory that they point to.
class Arrays {
 public:
  void Add(const std::string& name, const at::Tensor& tensor) {
    kept_.push_back(tensor.detach().to(at::kFloat).contiguous());
    const at::Tensor& values = kept_.back();
    arrays_.push_back({name,
                       values.dim() == 0 ? std::vector<int64_t>{1} : values.sizes().vec(),
                       {values.const_data_ptr<float>(), static_cast<size_t>(values.numel())}});
  }
  const std::vector<NamedArray>& arrays() const { return arrays_; }

 private:
  std::deque<at::Tensor> kept_;
  std::vector<NamedArray> arrays_;
};

void Dump(const ProbeOptions& options, const std::string& out) {
  Probe probe(options);
  const ProbeBatch batch = probe.Batch(0);
  Arrays arrays;
  arrays.Add("inputs", batch.inputs);
  arrays.Add("targets", batch.targets);
  arrays.Add("logits", probe.model().Logits(batch.inputs));
  const std::vector<at::Tensor> states = StreamStates(probe.Stack(), batch);
  for (size_t i = 0; i < states.size(); ++i) arrays.Add(fmt::format("state.{}", i), states[i]);
  const at::Tensor loss = probe.model().Loss(batch.inputs, batch.targets);
  loss.backward();
  arrays.Add("loss", loss);
  for (const Parameter& parameter : probe.model().parameters()) {
    arrays.Add("grad." + parameter.name, parameter.tensor.grad());
  }
  WriteSafetensors(out, arrays.arrays());
}

}  // namespace
}  // namespace normlab::trainer

int main(int argc, char** argv) {
  using namespace normlab::trainer;  // NOLINT(build/namespaces)
  CLI::App app("Writes inputs, logits, loss, states and gradients of one batch.", "normlab-peer-dump");
  ProbeOptions options{.sequences = 4, .batch = 4};
  std::string out;
  app.add_option("--checkpoint", options.checkpoint);
  app.add_option("--model", options.model);
  app.add_option("--data", options.data)->required();
  app.add_option("--seq-len", options.seq_len);
  app.add_option("--out", out)->required();
  CLI11_PARSE(app, argc, argv);
  try {
    Dump(options, out);
  } catch (const std::exception& error) {
    fmt::print(stderr, "normlab-peer-dump: {}\n", error.what());
    return 1;
  }
  return 0;
}
