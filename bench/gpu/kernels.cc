// The CUDA kernels' memory bandwidth beside that of a plain copy, as one JSON table. Needs a GPU; ./dev bench gpu runs
// it.
//
// Every tensor of a row is larger than the card's second-level cache, so that a pass over it is one over memory.
// "bytes" are the passes that docs/kernels.md counts.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/trainer/device/run_device.h"
#include "worker/trainer/model/ops.h"

namespace normlab::trainer {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kElements = 64 << 20;  // Of one tensor: 128 MB in bfloat16.
constexpr int kWarmups = 3;
constexpr int kRuns = 20;

class Bench {
 public:
  explicit Bench(const RunDevice& device)
      : device_(device.device), guard_(device.device), backend_(device.device.type()) {
    const at::Tensor from = Random({2 * kElements}, at::kBFloat16), to = at::empty_like(from);
    copy_bytes_per_second_ =
        Run("copy", {}, 2 * static_cast<double>(from.nbytes()), [&] { to.copy_(from); })["gb_per_s"].get<double>() *
        1e9;
  }

  at::Tensor Random(at::IntArrayRef shape, at::ScalarType type) const {
    return at::randn(shape, at::TensorOptions(device_).dtype(type));
  }
  c10::Device device() const { return device_; }

  /// The median of a few runs.
  Json Run(const std::string& kernel, const Json& shape, double bytes, const std::function<void()>& function) {
    const c10::Stream stream = backend_.getStream(device_);
    std::vector<double> milliseconds;
    for (int i = -kWarmups; i < kRuns; ++i) {
      c10::Event begin(c10::kCUDA, c10::EventFlag::BACKEND_DEFAULT), end(c10::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
      begin.record(stream);
      function();
      end.record(stream);
      end.synchronize();
      if (i >= 0) milliseconds.push_back(begin.elapsedTime(end));
    }
    std::sort(milliseconds.begin(), milliseconds.end());
    const double seconds = milliseconds[milliseconds.size() / 2] / 1e3;
    Json row = {{"kernel", kernel}};
    row.update(shape);
    row.update(Json{{"bytes", static_cast<int64_t>(bytes)},
                    {"microseconds", seconds * 1e6},
                    {"microseconds_min", milliseconds.front() * 1e3},
                    {"microseconds_max", milliseconds.back() * 1e3},
                    {"gb_per_s", bytes / seconds / 1e9}});
    if (copy_bytes_per_second_ > 0) row["of_copy"] = bytes / seconds / copy_bytes_per_second_;
    rows_.push_back(row);
    return row;
  }

  const Json& rows() const { return rows_; }

 private:
  c10::Device device_;
  c10::DeviceGuard guard_;
  c10::impl::VirtualGuardImpl backend_;
  double copy_bytes_per_second_ = 0;
  Json rows_ = Json::array();
};

void BenchNorm(Bench* bench, int64_t width, NormKind kind, at::ScalarType stream_type) {
  const int64_t rows = kElements / width;
  const at::TensorOptions weights = at::TensorOptions(bench->device()).dtype(at::kBFloat16);
  Norm norm = {.gain = at::full({width}, 1, weights), .output_scale = 0.7, .eps = 1e-6, .kind = kind};
  if (kind == NormKind::kLayer) norm.bias = at::full({width}, 0, weights);
  const at::Tensor residual = bench->Random({rows, width}, stream_type), sum = at::empty_like(residual);
  const at::Tensor branch = bench->Random({rows, width}, at::kBFloat16);
  const auto stream_bytes = static_cast<double>(residual.nbytes()), branch_bytes = static_cast<double>(branch.nbytes());
  const Json shape = {{"width", width},
                      {"rows", rows},
                      {"norm", kind == NormKind::kRms ? "rms" : "layer"},
                      {"stream", stream_type == at::kFloat ? "fp32" : "bf16"}};
  ops::ResidualNormResult result;
  for (const bool wants_stats : {false, true}) {
    const auto forward = [&] {
      result = ops::ResidualNorm(&norm, {.residual = residual, .branch = branch}, sum, at::kBFloat16, wants_stats,
                                 wants_stats);
    };
    // Reads residual and branch, writes sum and output.
    bench->Run(wants_stats ? "residual_norm with statistics" : "residual_norm", shape,
               2 * stream_bytes + 2 * branch_bytes, forward);
  }
  const at::Tensor add = bench->Random({rows, width}, stream_type);
  // Reads gradient, x and the residual's gradient, writes the gradient by x.
  bench->Run("norm_backward", shape, branch_bytes + 3 * stream_bytes,
             [&] { ops::NormBackward(norm, branch, sum, result.norm.inv_rms, add, 1); });
}

void BenchSwiGlu(Bench* bench, int64_t width) {
  const int64_t rows = kElements / width;
  const at::Tensor gate_up = bench->Random({rows, 2 * width}, at::kBFloat16);
  const at::Tensor grad = bench->Random({rows, width}, at::kBFloat16);
  const Json shape = {{"width", width}, {"rows", rows}};
  const double bytes = 1.5 * static_cast<double>(gate_up.nbytes());
  bench->Run("swiglu", shape, bytes, [&] { ops::SwiGlu(gate_up); });
  bench->Run("swiglu_backward", shape, 2 * bytes, [&] { ops::SwiGluBackward(gate_up, grad); });
}

void BenchCrossEntropy(Bench* bench, int64_t vocab) {
  const int64_t rows = 4096;
  const at::Tensor logits = bench->Random({rows, vocab}, at::kBFloat16);
  const at::TensorOptions options(bench->device());
  const at::Tensor targets = at::randint(vocab, {rows}, options.dtype(at::kLong));
  const at::Tensor scale = at::full({}, 1.0 / rows, options.dtype(at::kFloat));
  // One read and one write: the second read of a row comes from the cache.
  bench->Run("cross_entropy with gradient", {{"vocab", vocab}, {"rows", rows}},
             2 * static_cast<double>(logits.nbytes()), [&] { ops::CrossEntropy(logits, targets, scale); });
}

int Main() {
  const RunDevice device = FindDevice();
  const std::string lacks = device.is_cuda() ? device.kernels_lack : device.lacks;
  if (!lacks.empty()) {
    std::fprintf(stderr, "normlab-bench-kernels: nothing was measured: %s\n", lacks.c_str());
    return 2;
  }
  Bench bench(device);
  for (const int64_t width : {512, 768, 1024, 1536, 2048, 4096, 8192}) {
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
      for (const at::ScalarType stream : {at::kBFloat16, at::kFloat}) BenchNorm(&bench, width, kind, stream);
    }
  }
  for (const int64_t width : {2048, 2752, 5504}) BenchSwiGlu(&bench, width);
  for (const int64_t vocab : {32000, 50304}) BenchCrossEntropy(&bench, vocab);
  const Json table = {{"card", device.name}, {"torch", TORCH_VERSION}, {"runs", kRuns}, {"rows", bench.rows()}};
  std::printf("%s\n", table.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace normlab::trainer

int main() { return normlab::trainer::Main(); }
