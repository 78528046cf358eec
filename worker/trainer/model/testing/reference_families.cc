#include "worker/trainer/model/testing/reference_families.h"

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <string>

namespace normlab::trainer::testing {
namespace {

using Function = std::function<at::Tensor(const at::Tensor& x)>;

/// One sublayer of a scheme. l and L as in the papers.
at::Tensor Sublayer(const std::string& scheme, double l, double L, const at::Tensor& x, const Function& norm,
                    const Function& branch) {
  if (scheme == "post_ln") return norm(x + branch(x));
  if (scheme == "deepnorm") return norm(std::pow(2 * L, 0.25) * x + branch(x));
  if (scheme == "lns") return x + branch(norm(x) / std::sqrt(l));
  return x + branch(norm(x));
}

at::Tensor CrossEntropy(const at::Tensor& logits, const at::Tensor& targets) {
  return -at::log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).mean();
}

/// softmax(q k' / sqrt(head_dim)) v; [batch, heads, seq, head_dim]
at::Tensor Softmax(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const at::Tensor future = at::ones({q.size(2), q.size(2)}, at::kBool).triu(1);
  const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  return at::matmul(at::softmax(scores.masked_fill(future, -INFINITY), -1), v);
}

struct Gpt2 {
  const ModelSpec& model;
  const Weights& weights;

  at::Tensor Get(const std::string& name) const { return weights.at("transformer." + name); }
  at::Tensor Linear(const at::Tensor& x, const std::string& name) const {
    return at::matmul(x, Get(name + ".weight")) + Get(name + ".bias");
  }
  at::Tensor N(const at::Tensor& x, const std::string& name) const {
    const at::Tensor centred = x - x.mean(-1, true);
    return Get(name + ".weight") * centred / (centred.pow(2).mean(-1, true) + model.norm_eps).sqrt() +
           Get(name + ".bias");
  }
  at::Tensor A(const at::Tensor& x, const std::string& block) const {
    const auto parts = Linear(x, block + "attn.c_attn").chunk(3, -1);
    const auto heads = [&](const at::Tensor& y) {
      return y.reshape({y.size(0), y.size(1), model.num_heads, -1}).transpose(1, 2);
    };
    const at::Tensor context = Softmax(heads(parts[0]), heads(parts[1]), heads(parts[2]));
    return Linear(context.transpose(1, 2).reshape(x.sizes()), block + "attn.c_proj");
  }
  at::Tensor F(const at::Tensor& x, const std::string& block) const {
    const at::Tensor u = Linear(x, block + "mlp.c_fc");
    return Linear(0.5 * u * (1 + at::tanh(std::sqrt(2 / M_PI) * (u + 0.044715 * u.pow(3)))), block + "mlp.c_proj");
  }
};

struct MiniMax {
  const ModelSpec& model;
  const Weights& weights;

  at::Tensor Linear(const at::Tensor& x, const std::string& name) const {
    return at::matmul(x, weights.at(name + ".weight").t());
  }
  at::Tensor N(const at::Tensor& x, const std::string& name) const {
    return weights.at(name + ".weight") * x / (x.pow(2).mean(-1, true) + model.norm_eps).sqrt();
  }
  /// [batch, heads, seq, head_dim]
  at::Tensor Heads(const at::Tensor& y) const {
    return y.view({y.size(0), y.size(1), -1, model.hidden / model.num_heads}).transpose(1, 2);
  }
  /// Pairs (i, i + head_dim / 2) for i < head_dim / 4.
  at::Tensor HalfRope(const at::Tensor& x) const {
    const int64_t quarter = x.size(3) / 4;
    const at::Tensor frequency =
        at::pow(model.rope_base, -at::arange(quarter, at::kDouble) / static_cast<double>(quarter));
    const at::Tensor angle = at::outer(at::arange(x.size(2), at::kDouble), frequency);
    const at::Tensor a = x.slice(3, 0, quarter), b = x.slice(3, 2 * quarter, 3 * quarter);
    return at::cat({a * angle.cos() - b * angle.sin(), x.slice(3, quarter, 2 * quarter),
                    b * angle.cos() + a * angle.sin(), x.slice(3, 3 * quarter)},
                   3);
  }
  at::Tensor SoftmaxAttention(const at::Tensor& x, const std::string& p) const {
    const auto heads = [&](const std::string& name) {
      const at::Tensor y = Heads(Linear(x, p + name));
      return y.repeat_interleave(model.num_heads / y.size(1), 1);
    };
    const at::Tensor context = Softmax(HalfRope(heads("q_proj")), HalfRope(heads("k_proj")), heads("v_proj"));
    return Linear(context.transpose(1, 2).reshape(x.sizes()), p + "o_proj");
  }
  /// S_t = exp(-s) S_{t-1} + k_t v_t', o_t = S_t' q_t, for block i from 0
  at::Tensor Lightning(const at::Tensor& x, const std::string& p, int i) const {
    const auto heads = [&](const std::string& name) { return Heads(at::silu(Linear(x, p + name))); };
    const at::Tensor q = heads("q_proj"), k = heads("k_proj"), v = heads("v_proj");
    const at::Tensor h = at::arange(1, model.num_heads + 1, at::kDouble);
    const at::Tensor slope = at::pow(2.0, -8 * h / static_cast<double>(model.num_heads)) *
                             (1 - static_cast<double>(i) / (model.num_layers - 1) + 1e-5);
    const at::Tensor decay = (-slope).exp().view({-1, 1, 1});
    at::Tensor state = at::zeros({q.size(0), q.size(1), q.size(3), q.size(3)}, at::kDouble);
    std::vector<at::Tensor> outputs;
    for (int64_t t = 0; t < q.size(2); ++t) {
      state = decay * state + k.select(2, t).unsqueeze(3) * v.select(2, t).unsqueeze(2);
      outputs.push_back(at::matmul(q.select(2, t).unsqueeze(2), state).squeeze(2));
    }
    const at::Tensor o = at::stack(outputs, 2).transpose(1, 2).reshape(x.sizes());
    return Linear(at::sigmoid(Linear(x, p + "output_gate")) * N(o, p + "norm"), p + "out_proj");
  }
  at::Tensor A(const at::Tensor& x, const std::string& block, int i) const {
    return (i + 1) % model.softmax_every == 0 ? SoftmaxAttention(x, block + "self_attn.")
                                              : Lightning(x, block + "self_attn.", i);
  }
  /// Adds the block's balance loss to `balance`.
  at::Tensor F(const at::Tensor& x, const std::string& block, at::Tensor* balance) const {
    const std::string moe = block + "block_sparse_moe.";
    const double experts = static_cast<double>(model.num_experts), seq = static_cast<double>(x.size(1));
    const at::Tensor logits = Linear(x, moe + "gate");
    const auto [top, chosen] = logits.topk(2, -1);
    const at::Tensor picked = at::one_hot(chosen, model.num_experts).to(at::kDouble);  // [batch, seq, 2, experts]
    const at::Tensor is_chosen = picked.sum(2);
    const double capacity = std::ceil(model.capacity_factor * 2 * seq / experts);
    const at::Tensor has_room = (is_chosen.cumsum(1) <= capacity).to(at::kDouble);
    const at::Tensor weights_of = (at::softmax(top, -1).unsqueeze(3) * picked).sum(2) * has_room;
    at::Tensor y = at::zeros_like(x);
    for (int64_t e = 0; e < model.num_experts; ++e) {
      const std::string expert = moe + "experts." + std::to_string(e) + ".";
      const at::Tensor hidden = at::silu(Linear(x, expert + "w1")) * Linear(x, expert + "w3");
      y = y + weights_of.select(2, e).unsqueeze(2) * Linear(hidden, expert + "w2");
    }
    const at::Tensor f = is_chosen.mean(1), m = at::softmax(logits, -1).mean(1);  // [batch, experts]
    *balance = *balance + model.balance_coefficient / experts * (f * m).sum(-1).mean();
    return y;
  }
};

}  // namespace

FamilyResult RunGpt2(const ModelSpec& model, const NormSpec& norm, const Weights& weights, const at::Tensor& inputs,
                     const at::Tensor& targets) {
  const Gpt2 gpt2 = {model, weights};
  at::Tensor x = gpt2.Get("wte.weight").index({inputs}) + gpt2.Get("wpe.weight").slice(0, 0, inputs.size(1));
  for (int i = 0; i < model.num_layers; ++i) {
    const std::string block = "h." + std::to_string(i) + ".";
    const auto norm_of = [&](const std::string& name) {
      return [&, name](const at::Tensor& z) { return gpt2.N(z, block + name); };
    };
    x = Sublayer(norm.scheme, i + 1, model.num_layers, x, norm_of("ln_1"),
                 [&](const at::Tensor& z) { return gpt2.A(z, block); });
    x = Sublayer(norm.scheme, i + 1, model.num_layers, x, norm_of("ln_2"),
                 [&](const at::Tensor& z) { return gpt2.F(z, block); });
  }
  if (norm.final_norm) x = gpt2.N(x, "ln_f");
  FamilyResult result = {.logits = at::matmul(x, gpt2.Get("wte.weight").t())};
  result.loss = CrossEntropy(result.logits, targets);
  result.objective = result.loss;
  return result;
}

FamilyResult RunMiniMax(const ModelSpec& model, const NormSpec& norm, const Weights& weights, const at::Tensor& inputs,
                        const at::Tensor& targets) {
  const MiniMax minimax = {model, weights};
  at::Tensor balance = at::zeros({}, at::kDouble);
  at::Tensor x = weights.at("model.embed_tokens.weight").index({inputs});
  for (int i = 0; i < model.num_layers; ++i) {
    const std::string block = "model.layers." + std::to_string(i) + ".";
    const auto norm_of = [&](const std::string& name) {
      return [&, name](const at::Tensor& z) { return minimax.N(z, block + name); };
    };
    x = Sublayer(norm.scheme, i + 1, model.num_layers, x, norm_of("input_layernorm"),
                 [&](const at::Tensor& z) { return minimax.A(z, block, i); });
    x = Sublayer(norm.scheme, i + 1, model.num_layers, x, norm_of("post_attention_layernorm"),
                 [&](const at::Tensor& z) { return minimax.F(z, block, &balance); });
  }
  if (norm.final_norm) x = minimax.N(x, "model.norm");
  FamilyResult result = {.logits = minimax.Linear(x, "lm_head")};
  result.loss = CrossEntropy(result.logits, targets);
  result.objective = result.loss + balance;
  return result;
}

}  // namespace normlab::trainer::testing
