#include "worker/trainer/model/init.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <cmath>

namespace normlab::trainer {
namespace {

/// FNV-1a over the name, then splitmix64's finalizer: the generator takes 32 bits of it, so all bits must count.
uint64_t StreamSeed(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u ^ seed;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
  return hash ^ (hash >> 31);
}

at::Tensor Draw(at::IntArrayRef shape, const at::Generator& generator) {
  return at::empty(shape, at::kFloat).normal_(0, 1, generator);
}

}  // namespace

void FillNormal(const at::Tensor& tensor, double std, uint64_t seed, std::string_view name) {
  const c10::NoGradGuard no_grad;
  at::Tensor draws = Draw(tensor.sizes(), at::detail::createCPUGenerator(StreamSeed(seed, name)));
  tensor.copy_(draws.mul_(std));
}

void FillTruncatedNormal(const at::Tensor& tensor, double std, uint64_t seed, std::string_view name) {
  constexpr float kDeviationsMax = 3;
  const c10::NoGradGuard no_grad;
  const at::Generator generator = at::detail::createCPUGenerator(StreamSeed(seed, name));
  at::Tensor draws = Draw(tensor.sizes(), generator);
  float* values = draws.mutable_data_ptr<float>();
  for (int64_t i = 0; i < draws.numel(); ++i) {
    while (std::abs(values[i]) > kDeviationsMax) values[i] = *Draw({1}, generator).const_data_ptr<float>();
  }
  tensor.copy_(draws.mul_(std));
}

}  // namespace normlab::trainer
