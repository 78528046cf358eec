#include "worker/trainer/model/testing/reference_model.h"

#include <ATen/ATen.h>

#include <cmath>

namespace normlab::trainer::testing {
namespace {

struct Reference {
  const ModelSpec& model;
  const Weights& weights;

  at::Tensor Get(const std::string& name) const { return weights.at(name + ".weight"); }

  at::Tensor Linear(const at::Tensor& x, const std::string& name) const { return at::matmul(x, Get(name).t()); }

  /// N(z) = g z / sqrt(mean(z^2) + eps)
  at::Tensor N(const at::Tensor& z, const std::string& name) const {
    return Get(name) * z / (z.pow(2).mean(-1, true) + model.norm_eps).sqrt();
  }

  /// (a, b) -> (a cos - b sin, b cos + a sin) for the halves a, b of each head. x: [batch, heads, seq, head_dim]
  at::Tensor Rope(const at::Tensor& x) const {
    const int64_t seq = x.size(2), half = x.size(3) / 2;
    const at::Tensor exponent = at::arange(half, at::kDouble) / static_cast<double>(half);
    const at::Tensor frequency = at::pow(at::full({half}, model.rope_base, at::kDouble), -exponent);
    const at::Tensor angle = at::outer(at::arange(seq, at::kDouble), frequency);
    const at::Tensor a = x.slice(3, 0, half), b = x.slice(3, half);
    return at::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()}, 3);
  }

  at::Tensor A(const at::Tensor& x, const std::string& block) const {
    const int64_t batch = x.size(0), seq = x.size(1), head_dim = model.hidden / model.num_heads;
    const auto heads = [&](const std::string& name) {
      return Linear(x, block + "self_attn." + name).view({batch, seq, model.num_heads, head_dim}).transpose(1, 2);
    };
    const at::Tensor q = Rope(heads("q_proj")), k = Rope(heads("k_proj")), v = heads("v_proj");
    const at::Tensor future = at::ones({seq, seq}, at::kBool).triu(1);
    const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(head_dim));
    const at::Tensor attended = at::matmul(at::softmax(scores.masked_fill(future, -INFINITY), -1), v);
    return Linear(attended.transpose(1, 2).reshape({batch, seq, model.hidden}), block + "self_attn.o_proj");
  }

  at::Tensor F(const at::Tensor& z, const std::string& block) const {
    const at::Tensor gate = Linear(z, block + "mlp.gate_proj");
    return Linear(gate * at::sigmoid(gate) * Linear(z, block + "mlp.up_proj"), block + "mlp.down_proj");
  }
};

enum class Form { kPre, kLns, kPost, kDeepNorm };

Form FormOf(const ModelSpec& model, const NormSpec& norm, int l) {
  if (norm.scheme == "lns") return Form::kLns;
  if (norm.scheme == "post_ln") return Form::kPost;
  if (norm.scheme == "deepnorm") return Form::kDeepNorm;
  if (norm.scheme == "mix_ln" && l <= std::floor(norm.mix_ln_ratio * model.num_layers)) return Form::kPost;
  return Form::kPre;
}

double Variance(const at::Tensor& x) { return x.var(-1, /*unbiased=*/false).mean().item<double>(); }
double MeanSquare(const at::Tensor& x) { return x.pow(2).mean().item<double>(); }

}  // namespace

ReferenceResult RunReference(const ModelSpec& model, const NormSpec& norm, const Weights& weights,
                             const at::Tensor& inputs, const at::Tensor& targets) {
  const Reference ref = {model, weights};
  ReferenceResult result = {.layer_stats = at::zeros({model.num_layers, 4}, at::kDouble)};
  at::Tensor x = ref.Get("model.embed_tokens").index({inputs});
  for (int l = 1; l <= model.num_layers; ++l) {
    const std::string block = "model.layers." + std::to_string(l - 1) + ".";
    const std::string n1 = block + "input_layernorm", n2 = block + "post_attention_layernorm";
    const double alpha = std::pow(2.0 * model.num_layers, 0.25), root = std::sqrt(static_cast<double>(l));
    at::Tensor a, h, f, y;
    switch (FormOf(model, norm, l)) {
      case Form::kPre:
        a = ref.A(ref.N(x, n1), block), h = x + a;
        f = ref.F(ref.N(h, n2), block), y = h + f;
        break;
      case Form::kLns:
        a = ref.A(ref.N(x, n1) / root, block), h = x + a;
        f = ref.F(ref.N(h, n2) / root, block), y = h + f;
        break;
      case Form::kPost:
        a = ref.A(x, block), h = ref.N(x + a, n1);
        f = ref.F(h, block), y = ref.N(h + f, n2);
        break;
      case Form::kDeepNorm:
        a = ref.A(x, block), h = ref.N(alpha * x + a, n1);
        f = ref.F(h, block), y = ref.N(alpha * h + f, n2);
        break;
    }
    result.layer_stats[l - 1].copy_(
        at::tensor({Variance(y), MeanSquare(y), MeanSquare(a), MeanSquare(f)}, at::kDouble));
    x = y;
  }
  if (norm.final_norm) x = ref.N(x, "model.norm");
  result.logits = ref.Linear(x, "lm_head");
  result.loss = -at::log_softmax(result.logits, -1).gather(-1, targets.unsqueeze(-1)).mean();
  return result;
}

}  // namespace normlab::trainer::testing
