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

  /// N(z) = g z / sqrt(mean(z^2) + eps); or the LayerNorm or DyT that stand in its place.
  at::Tensor N(const at::Tensor& z, const std::string& name) const {
    if (weights.contains(name + ".alpha")) return Get(name) * at::tanh(weights.at(name + ".alpha") * z);
    if (weights.contains(name + ".bias")) {
      const at::Tensor centered = z - z.mean(-1, true);
      const at::Tensor deviation = (centered.pow(2).mean(-1, true) + model.norm_eps).sqrt();
      return Get(name) * centered / deviation + weights.at(name + ".bias");
    }
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

  /// Heads of a projection, [batch, heads, seq, head_dim], after the norm on it that there may be.
  at::Tensor Heads(const at::Tensor& x, const std::string& block, const std::string& letter) const {
    const int64_t head_dim = model.hidden / model.num_heads;
    const std::string norm = block + "self_attn." + letter + "_norm";
    at::Tensor y = Linear(x, block + "self_attn." + letter + "_proj");
    const bool is_full = weights.contains(norm + ".weight") && Get(norm).size(0) == model.hidden;
    if (is_full) y = N(y, norm);
    y = y.view({x.size(0), x.size(1), model.num_heads, head_dim});
    if (weights.contains(norm + ".weight") && !is_full) y = N(y, norm);
    return y.transpose(1, 2);
  }

  at::Tensor Softmax(const at::Tensor& scores, const at::Tensor& v) const {
    const at::Tensor future = at::ones({v.size(2), v.size(2)}, at::kBool).triu(1);
    const at::Tensor attended = at::matmul(at::softmax(scores.masked_fill(future, -INFINITY), -1), v);
    return attended.transpose(1, 2).flatten(2);
  }

  at::Tensor A(const at::Tensor& x, const std::string& block) const {
    const at::Tensor q = Rope(Heads(x, block, "q")), k = Rope(Heads(x, block, "k")), v = Heads(x, block, "v");
    const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
    return Linear(Softmax(scores, v), block + "self_attn.o_proj");
  }

  at::Tensor F(const at::Tensor& z, const std::string& block) const {
    const at::Tensor gate = Linear(z, block + "mlp.gate_proj");
    return Linear(gate * at::sigmoid(gate) * Linear(z, block + "mlp.up_proj"), block + "mlp.down_proj");
  }

  static at::Tensor U(const at::Tensor& v) { return v / v.pow(2).sum(-1, true).sqrt(); }

  /// nGPT's A and F: query and key of length 1 times s_qk; gate and up times s_uv sqrt(d).
  at::Tensor NgptA(const at::Tensor& x, const std::string& block) const {
    const double root = std::sqrt(static_cast<double>(model.hidden));
    const at::Tensor s = (weights.at(block + "self_attn.sqk") * root).view({model.num_heads, 1, -1});
    const at::Tensor q = s * U(Rope(Heads(x, block, "q"))), k = s * U(Rope(Heads(x, block, "k")));
    const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) * std::sqrt(static_cast<double>(q.size(3)));
    return Linear(Softmax(scores, Heads(x, block, "v")), block + "self_attn.o_proj");
  }
  at::Tensor NgptF(const at::Tensor& x, const std::string& block) const {
    const double root = std::sqrt(static_cast<double>(model.hidden));
    const at::Tensor s = weights.at(block + "mlp.suv") * root;
    const at::Tensor up = Linear(x, block + "mlp.up_proj") * s.slice(0, 0, model.ffn_hidden);
    const at::Tensor gate = Linear(x, block + "mlp.gate_proj") * s.slice(0, model.ffn_hidden);
    return Linear(up * gate * at::sigmoid(gate), block + "mlp.down_proj");
  }
};

/// What a block gives, and what each branch added to the stream.
struct BlockResult {
  at::Tensor y, a, f;
};

/// Block l (from 1) of L, as each paper writes it.
struct SchemeEquations {
  const Reference& ref;
  const NormSpec& norm;
  double l, L;
  std::string block;

  at::Tensor A(const at::Tensor& x) const { return ref.A(x, block); }
  at::Tensor F(const at::Tensor& x) const { return ref.F(x, block); }
  at::Tensor N(const std::string& name, const at::Tensor& x) const { return ref.N(x, block + name); }
  at::Tensor N1(const at::Tensor& x) const { return N("input_layernorm", x); }
  at::Tensor N2(const at::Tensor& x) const { return N("post_attention_layernorm", x); }
  /// GPAS on the stream: v - silu(a) stopgrad(v), where the spec asks for it.
  at::Tensor G(const at::Tensor& v) const {
    if (!norm.gpas) return v;
    const at::Tensor& a = ref.weights.at(block + "gpas_gate");
    return v - a * at::sigmoid(a) * v.detach();
  }
  /// What G leaves of something that is added inside it.
  double Passed() const {
    if (!norm.gpas) return 1;
    const double a = ref.weights.at(block + "gpas_gate").item<double>();
    return 1 - a / (1 + std::exp(-a));
  }

  /// The stream as residual_dtype keeps it; its gradient is that of the sum.
  at::Tensor Kept(const at::Tensor& sum) const {
    if (norm.residual_dtype != "bf16") return sum;
    return sum + (sum.to(at::kBFloat16).to(at::kDouble) - sum).detach();
  }

  BlockResult Pre() const {
    const at::Tensor a = A(N1(x)), h = Kept(G(x + a));
    const at::Tensor f = F(N2(h));
    return {Kept(G(h + f)), a * Passed(), f * Passed()};
  }
  BlockResult Lns() const {
    const double r = 1 / std::sqrt(l);
    const std::string& at = norm.lns_position;
    if (at == "gain_init") return Pre();
    if (at == "before") {
      const at::Tensor a = A(N1(r * x)), h = x + a;
      const at::Tensor f = F(N2(r * h));
      return {h + f, a, f};
    }
    if (at == "after_branch") {
      const at::Tensor a = r * A(N1(x)), h = x + a;
      const at::Tensor f = r * F(N2(h));
      return {h + f, a, f};
    }
    if (at == "after_residual") {
      const at::Tensor a = A(N1(x)), h = r * (x + a);
      const at::Tensor f = F(N2(h));
      return {r * (h + f), r * a, r * f};
    }
    const at::Tensor a = A((at == "ffn_only" ? 1 : r) * N1(x)), h = G(x + a);
    const at::Tensor f = F((at == "attn_only" ? 1 : r) * N2(h));
    return {G(h + f), a * Passed(), f * Passed()};
  }
  BlockResult Post(double alpha) const {
    const at::Tensor a = A(x), h = N1(alpha * G(x) + a);
    const at::Tensor f = F(h);
    return {N2(alpha * G(h) + f), a, f};
  }
  BlockResult LearnedScale() const {
    const at::Tensor a = ref.weights.at(block + "attention_branch_scale") * A(N1(x)), h = x + a;
    const at::Tensor f = ref.weights.at(block + "ffn_branch_scale") * F(N2(h));
    return {h + f, a, f};
  }
  BlockResult Sandwich() const {
    const at::Tensor a = N("post_attention_layernorm", A(N("input_layernorm", x))), h = G(x + a);
    const at::Tensor f = N("post_feedforward_layernorm", F(N("pre_feedforward_layernorm", h)));
    return {G(h + f), a * Passed(), f * Passed()};
  }
  BlockResult Olmo2() const {
    const at::Tensor a = N("post_attention_layernorm", A(x)), h = x + a;
    const at::Tensor f = N("post_feedforward_layernorm", F(h));
    return {h + f, a, f};
  }
  BlockResult Hybrid() const {
    const at::Tensor a = A(x), z = N2(x + a);
    const at::Tensor f = F(z);
    return {z + f, a, f};
  }
  BlockResult Keel() const {
    const at::Tensor a = A(N("input_layernorm", x)), h = N("post_attention_layernorm", 2 * L * x + a);
    const at::Tensor f = F(N("pre_feedforward_layernorm", h));
    return {N("post_feedforward_layernorm", 2 * L * h + f), a, f};
  }
  BlockResult Ngpt() const {
    const double unit = 0.05 * std::sqrt(static_cast<double>(ref.model.hidden));
    const auto step = [&](const char* name, const at::Tensor& from, const at::Tensor& branch) {
      return at::abs(ref.weights.at(block + name) * unit) * (Reference::U(branch) - from);
    };
    const at::Tensor u = Reference::U(x), a = step("attn_alpha", u, ref.NgptA(x, block)), h = Reference::U(u + a);
    const at::Tensor f = step("mlp_alpha", h, ref.NgptF(h, block));
    return {Reference::U(h + f), a, f};
  }

  BlockResult Run() const {
    const std::string& name = norm.scheme;
    if (name == "lns" || name == "lns_scaled_init") return Lns();
    if (name == "post_ln") return Post(1);
    if (name == "deepnorm") return Post(std::pow(2 * L, 0.25));
    if (name == "deepnorm_mixln_release") return Post(2.8284);
    if (name == "mix_ln") return l <= std::floor(norm.mix_ln_ratio * L) ? Post(1) : Pre();
    if (name == "layer_scale" || name == "skip_init") return LearnedScale();
    if (name == "sandwich" || name == "peri_ln") return Sandwich();
    if (name == "olmo2") return Olmo2();
    if (name == "hybrid_norm") return Hybrid();
    if (name == "hybrid_norm_star") return l == 1 ? Pre() : Hybrid();
    if (name == "keel") return Keel();
    if (name == "ngpt") return Ngpt();
    return Pre();
  }

  at::Tensor x;
};

double Variance(const at::Tensor& x) { return x.var(-1, /*unbiased=*/false).mean().item<double>(); }
double MedianVariance(const at::Tensor& x) { return x.var(-1, /*unbiased=*/false).flatten().median().item<double>(); }
double MeanSquare(const at::Tensor& x) { return x.pow(2).mean().item<double>(); }

}  // namespace

ReferenceResult RunReference(const ModelSpec& model, const NormSpec& norm, const Weights& weights,
                             const at::Tensor& inputs, const at::Tensor& targets) {
  const Reference ref = {model, weights};
  ReferenceResult result = {.layer_stats = at::zeros({model.num_layers, 8}, at::kDouble)};
  at::Tensor x = ref.Get("model.embed_tokens").index({inputs});
  if (norm.scheme == "dyt") x = x * weights.at("model.embed_scale");
  if (norm.embed_norm) x = ref.N(x, "model.embed_norm");
  for (int l = 1; l <= model.num_layers; ++l) {
    const BlockResult block = SchemeEquations{.ref = ref,
                                              .norm = norm,
                                              .l = static_cast<double>(l),
                                              .L = static_cast<double>(model.num_layers),
                                              .block = "model.layers." + std::to_string(l - 1) + ".",
                                              .x = x}
                                  .Run();
    result.layer_stats[l - 1].copy_(
        at::tensor({Variance(block.y), MedianVariance(block.y), MeanSquare(block.y), block.y.abs().max().item<double>(),
                    Variance(block.a), MeanSquare(block.a), Variance(block.f), MeanSquare(block.f)},
                   at::kDouble));
    x = block.y;
  }
  const bool is_ngpt = norm.scheme == "ngpt";
  if (norm.final_norm && !is_ngpt) x = ref.N(x, "model.norm");
  result.logits = ref.Linear(x, "lm_head");
  if (is_ngpt) result.logits = result.logits * weights.at("sz") * std::sqrt(static_cast<double>(model.hidden));
  result.loss = -at::log_softmax(result.logits, -1).gather(-1, targets.unsqueeze(-1)).mean();
  return result;
}

}  // namespace normlab::trainer::testing
