#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/trainer/model/block.h"
#include "worker/trainer/spec.h"

namespace normlab::trainer {

/// One trainable tensor. Names are those of Hugging Face's models ("model.layers.0.self_attn.q_proj.weight"; 0-based
/// there).
struct Parameter {
  std::string name;
  at::Tensor tensor;  // requires_grad, contiguous. Change it in place only: several are views of one storage.
  int layer;          // 1-based block; 0 for embedding, final norm and head
  bool decays;        // weight decay applies: matrices but not the embedding
};

/// What each block did in one forward and its backward; filled only when asked for, without touching gradients.
struct LayerForwardStats {
  std::vector<BlockStats> blocks;  // First block first; over the tokens whose target counts.
  // Norms of the loss's gradient by the stream in front of each block and behind the last, [layers + 1]; filled by the
  // backward. Null where no gradients are recorded.
  std::shared_ptr<std::vector<double>> stream_grad_norms;
};

/// Decoder of any family (families.h) with the norm scheme of the spec (common/norm_scheme.h, arXiv:2502.05795 and
/// others). Deterministic: the same spec, vocabulary and seed give the same bits on the same machine and thread count.
/// Initial weights depend on seed and name alone, up to the scheme's standard deviations: arms of an ablation start
/// alike.
class Transformer {
 public:
  /// Throws PermanentError for a scheme or shape that cannot be built. Weights have the type and device of `options`:
  /// float32; float64 to check formulas; bfloat16, which branches and head then compute in, while the stream between
  /// them is float32 unless norm.residual_dtype says otherwise. On a GPU and in bfloat16 family minimax cannot be
  /// built.
  Transformer(const ModelSpec& model, const NormSpec& norm, int64_t vocab_size, uint64_t seed,
              at::TensorOptions options = at::kFloat);
  ~Transformer();

  /// Mean cross entropy over all positions, in nats; where gradients are wanted, plus the balance losses of a mixture
  /// of experts, so that an evaluation has none. inputs, targets: int64 [batch, seq]. With `stats`, fills it.
  /// backward() of the result may be called once.
  at::Tensor Loss(const at::Tensor& inputs, const at::Tensor& targets, LayerForwardStats* stats = nullptr) const;

  /// Logits without gradient, [batch, seq, vocab].
  at::Tensor Logits(const at::Tensor& inputs) const;

  /// The parts of Loss one by one, for looking inside. x is the stream, [tokens, hidden]: whole sequences of seq_len
  /// one after another. Gradients are recorded as in Loss.
  at::Tensor Embed(const at::Tensor& inputs) const;
  /// The output of block `layer` (1-based) for the input x; its l is its own whatever x went through before.
  at::Tensor RunBlock(int layer, const at::Tensor& x, int64_t seq_len) const;
  /// The loss of the stream behind the last block, without auxiliary losses of blocks.
  at::Tensor StreamLoss(const at::Tensor& x, const at::Tensor& targets) const;

  /// To be called after each change of the weights by an optimizer. Under nGPT it gives the matrices' rows length 1
  /// again; under every other scheme it does nothing.
  void AfterUpdate();

  /// All trainable tensors, in a fixed order.
  const std::vector<Parameter>& parameters() const;

  /// Model floating-point operations per token, forward and backward: 6 per weight outside of the embedding, plus 12
  /// per layer, hidden and position for attention (arXiv:2204.02311, appendix B: the causal half is not subtracted).
  double FlopsPerToken(int64_t seq_len) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace normlab::trainer
