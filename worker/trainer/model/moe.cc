#include "worker/trainer/model/moe.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <utility>

#include "worker/trainer/model/autograd.h"
#include "worker/trainer/model/rows.h"

namespace normlab::trainer {
namespace {

struct MoeSaved : BranchSaved {
  Routing routing;
  at::Tensor logits;         // [tokens, experts]
  at::Tensor probabilities;  // Their softmax.
  at::Tensor gathered;       // [kept, hidden]: the input of the experts, in the order of routing.tokens_of
  at::Tensor expert_output;  // [kept, hidden]
  std::vector<std::unique_ptr<BranchSaved>> experts;
};

/// Weights of a token's two choices: the softmax over their logits.
template <typename T>
std::array<T, kChoices> ChoiceWeights(const T* logits, const int32_t* experts) {
  const T first = 1 / (1 + std::exp(logits[experts[1]] - logits[experts[0]]));
  return {first, 1 - first};
}

/// Rows [begins[e], begins[e + 1]) of `all`.
at::Tensor PartOf(const Routing& routing, size_t expert, const at::Tensor& all) {
  return all.narrow(0, routing.begins[expert], routing.begins[expert + 1] - routing.begins[expert]);
}

at::Tensor Gather(const Routing& routing, const at::Tensor& input) {
  const auto kept = static_cast<int64_t>(routing.tokens_of.size()), hidden = input.size(1);
  const at::Tensor gathered = at::empty({kept, hidden}, input.options());
  WithElementType(input, [&]<typename T>(T) {
    const T* from = input.const_data_ptr<T>();
    T* to = gathered.mutable_data_ptr<T>();
    ForEachChunk(kept, [&](int64_t, int64_t first, int64_t rows) {
      for (int64_t i = first; i < first + rows; ++i) {
        std::copy_n(from + routing.tokens_of[i] * hidden, hidden, to + i * hidden);
      }
    });
  });
  return gathered;
}

/// For each token, the sum of its experts' rows; weighted with `logits`, plain without.
at::Tensor Combine(const Routing& routing, int64_t tokens, const at::Tensor& rows_of_experts,
                   const at::Tensor* logits) {
  const int64_t hidden = rows_of_experts.size(1);
  const at::Tensor result = at::empty({tokens, hidden}, rows_of_experts.options());
  WithElementType(result, [&]<typename T>(T) {
    const T* from = rows_of_experts.const_data_ptr<T>();
    const T* all_logits = logits != nullptr ? logits->const_data_ptr<T>() : nullptr;
    const int64_t experts = logits != nullptr ? logits->size(1) : 0;
    T* to = result.mutable_data_ptr<T>();
    ForEachChunk(tokens, [&](int64_t, int64_t first, int64_t rows) {
      for (int64_t t = first; t < first + rows; ++t) {
        std::array<T, kChoices> weights = {1, 1};
        if (logits != nullptr) weights = ChoiceWeights(all_logits + t * experts, &routing.experts[t * kChoices]);
        T* y = to + t * hidden;
        std::fill_n(y, hidden, T{0});
        for (int choice = 0; choice < kChoices; ++choice) {
          const int64_t row = routing.rows[t * kChoices + choice];
          if (row == kDropped) continue;
          const T* x = from + row * hidden;
          for (int64_t i = 0; i < hidden; ++i) y[i] += weights[choice] * x[i];
        }
      }
    });
  });
  return result;
}

/// The gradient of Combine by the experts' rows. Adds that by the logits of the chosen to `grad_logits`.
at::Tensor CombineBackward(const Routing& routing, const at::Tensor& grad_output, const at::Tensor& expert_output,
                           const at::Tensor& logits, const at::Tensor& grad_logits) {
  const int64_t tokens = grad_output.size(0), hidden = grad_output.size(1), experts = logits.size(1);
  const at::Tensor result = at::empty_like(expert_output);
  WithElementType(grad_output, [&]<typename T>(T) {
    const T* grads = grad_output.const_data_ptr<T>();
    const T* outputs = expert_output.const_data_ptr<T>();
    const T* all_logits = logits.const_data_ptr<T>();
    T* to = result.mutable_data_ptr<T>();
    T* to_logits = grad_logits.mutable_data_ptr<T>();
    ForEachChunk(tokens, [&](int64_t, int64_t first, int64_t rows) {
      for (int64_t t = first; t < first + rows; ++t) {
        const int32_t* chosen = &routing.experts[t * kChoices];
        const std::array<T, kChoices> weights = ChoiceWeights(all_logits + t * experts, chosen);
        std::array<T, kChoices> grad_weights = {0, 0};
        for (int choice = 0; choice < kChoices; ++choice) {
          const int64_t row = routing.rows[t * kChoices + choice];
          if (row == kDropped) continue;
          const T* grad = grads + t * hidden;
          const T* output = outputs + row * hidden;
          T sum = 0;
          for (int64_t i = 0; i < hidden; ++i) {
            to[row * hidden + i] = weights[choice] * grad[i];
            sum += grad[i] * output[i];
          }
          grad_weights[choice] = sum;
        }
        const T slope = weights[0] * weights[1] * (grad_weights[0] - grad_weights[1]);
        to_logits[t * experts + chosen[0]] += slope;
        to_logits[t * experts + chosen[1]] -= slope;
      }
    });
  });
  return result;
}

/// (1/E) sum_e f_e m_e, averaged over sequences of `seq` tokens.
double BalanceLoss(const Routing& routing, const at::Tensor& probabilities, int64_t seq) {
  const int64_t tokens = probabilities.size(0), experts = probabilities.size(1);
  double sum = 0;
  WithElementType(probabilities, [&]<typename T>(T) {
    const T* p = probabilities.const_data_ptr<T>();
    for (int64_t t = 0; t < tokens; ++t) {
      const double* fractions = &routing.fractions[t / seq * experts];
      for (int64_t e = 0; e < experts; ++e) sum += fractions[e] * static_cast<double>(p[t * experts + e]);
    }
  });
  return sum / static_cast<double>(tokens * experts);
}

/// Gradient of BalanceLoss by the logits, times `scale`: p_e (f_e - sum_i f_i p_i) / (tokens E).
at::Tensor BalanceGradient(const Routing& routing, const at::Tensor& probabilities, int64_t seq, double scale) {
  const int64_t tokens = probabilities.size(0), experts = probabilities.size(1);
  const at::Tensor result = at::empty_like(probabilities);
  const double factor = scale / static_cast<double>(tokens * experts);
  WithElementType(probabilities, [&]<typename T>(T) {
    const T* p = probabilities.const_data_ptr<T>();
    T* grad = result.mutable_data_ptr<T>();
    for (int64_t t = 0; t < tokens; ++t, p += experts, grad += experts) {
      const double* fractions = &routing.fractions[t / seq * experts];
      double mean = 0;
      for (int64_t e = 0; e < experts; ++e) mean += fractions[e] * static_cast<double>(p[e]);
      for (int64_t e = 0; e < experts; ++e) {
        grad[e] = static_cast<T>(factor * static_cast<double>(p[e]) * (fractions[e] - mean));
      }
    }
  });
  return result;
}

/// The two largest; of equal ones the first. NaN is never larger.
template <typename T>
void ChooseTwo(const T* logits, int64_t experts, int32_t* chosen) {
  chosen[0] = logits[1] > logits[0] ? 1 : 0;
  chosen[1] = 1 - chosen[0];
  for (int32_t e = 2; e < experts; ++e) {
    if (logits[e] > logits[chosen[0]]) {
      chosen[1] = std::exchange(chosen[0], e);
    } else if (logits[e] > logits[chosen[1]]) {
      chosen[1] = e;
    }
  }
}

}  // namespace

int64_t ExpertCapacity(double factor, int64_t seq, int64_t num_experts) {
  const double room = std::ceil(factor * kChoices * static_cast<double>(seq) / static_cast<double>(num_experts) - 1e-9);
  return static_cast<int64_t>(std::clamp(room, 1.0, static_cast<double>(seq)));
}

Routing Route(const at::Tensor& logits, int64_t seq, int64_t capacity) {
  const int64_t tokens = logits.size(0), experts = logits.size(1);
  Routing routing = {.experts = std::vector<int32_t>(tokens * kChoices),
                     .rows = std::vector<int64_t>(tokens * kChoices, kDropped),
                     .tokens_of = {},
                     .begins = std::vector<int64_t>(experts + 1, 0),
                     .fractions = std::vector<double>(tokens / seq * experts, 0.0),
                     .num_dropped = 0};
  WithElementType(logits, [&]<typename T>(T) {
    const T* data = logits.const_data_ptr<T>();
    for (int64_t t = 0; t < tokens; ++t) ChooseTwo(data + t * experts, experts, &routing.experts[t * kChoices]);
  });
  // First each kept choice's place within its expert; the experts' own places follow once all are counted.
  std::vector<int64_t> taken(experts), kept(experts, 0);
  for (int64_t t = 0; t < tokens; ++t) {
    if (t % seq == 0) std::fill(taken.begin(), taken.end(), 0);
    for (int choice = 0; choice < kChoices; ++choice) {
      const int32_t expert = routing.experts[t * kChoices + choice];
      routing.fractions[t / seq * experts + expert] += 1.0 / static_cast<double>(seq);
      if (taken[expert] == capacity) {
        ++routing.num_dropped;
        continue;
      }
      ++taken[expert];
      routing.rows[t * kChoices + choice] = kept[expert]++;
    }
  }
  for (int64_t e = 0; e < experts; ++e) routing.begins[e + 1] = routing.begins[e] + kept[e];
  routing.tokens_of.resize(routing.begins[experts]);
  for (int64_t i = 0; i < tokens * kChoices; ++i) {
    if (routing.rows[i] == kDropped) continue;
    routing.rows[i] += routing.begins[routing.experts[i]];
    routing.tokens_of[routing.rows[i]] = i / kChoices;
  }
  return routing;
}

MoeBranch::MoeBranch(const Shape& shape, at::TensorOptions options)
    : shape_(shape), router_(at::empty({shape.num_experts, shape.hidden}, options)) {
  parameters_ = {Trainable(router_)};
  for (int64_t e = 0; e < shape.num_experts; ++e) {
    experts_.emplace_back(shape.hidden, shape.ffn_hidden, options);
    const std::vector<at::Tensor>& own = experts_.back().parameters();
    parameters_.insert(parameters_.end(), own.begin(), own.end());
  }
}

at::Tensor MoeBranch::Forward(const BranchContext& context, const at::Tensor& input,
                              std::unique_ptr<BranchSaved>* saved) const {
  const int64_t seq = context.rotary.cosine.size(0);
  auto own = std::make_unique<MoeSaved>();
  own->logits = at::mm(input, router_.t());
  own->probabilities = at::softmax(own->logits, -1);
  own->routing = Route(own->logits, seq, ExpertCapacity(shape_.capacity_factor, seq, shape_.num_experts));
  own->gathered = Gather(own->routing, input);
  own->expert_output = at::empty_like(own->gathered);
  own->experts.resize(experts_.size());
  for (size_t e = 0; e < experts_.size(); ++e) {
    PartOf(own->routing, e, own->expert_output)
        .copy_(experts_[e].Forward(context, PartOf(own->routing, e, own->gathered), &own->experts[e]));
  }
  own->dropped_ratio = static_cast<double>(own->routing.num_dropped) / static_cast<double>(own->routing.experts.size());
  own->auxiliary_loss = at::scalar_tensor(
      shape_.balance_coefficient * BalanceLoss(own->routing, own->probabilities, seq), input.options());
  const at::Tensor result = Combine(own->routing, input.size(0), own->expert_output, &own->logits);
  *saved = std::move(own);
  return result;
}

BranchGradient MoeBranch::Backward(const BranchContext& context, const at::Tensor& input,
                                   std::unique_ptr<BranchSaved> saved, const at::Tensor& grad_output,
                                   const at::Tensor& add, double add_scale) const {
  auto& own = static_cast<MoeSaved&>(*saved);
  const at::Tensor grad_logits = BalanceGradient(own.routing, own.probabilities, context.rotary.cosine.size(0),
                                                 own.grad_auxiliary_loss * shape_.balance_coefficient);
  const at::Tensor grad_expert_output =
      CombineBackward(own.routing, grad_output, own.expert_output, own.logits, grad_logits);
  BranchGradient gradient;
  gradient.parameters.push_back(at::mm(grad_logits.t(), input));
  const at::Tensor grad_gathered = own.expert_output;  // Its values are used up.
  for (size_t e = 0; e < experts_.size(); ++e) {
    BranchGradient expert =
        experts_[e].Backward(context, PartOf(own.routing, e, own.gathered), std::move(own.experts[e]),
                             PartOf(own.routing, e, grad_expert_output), /*add=*/{}, /*add_scale=*/1);
    PartOf(own.routing, e, grad_gathered).copy_(expert.input);
    std::move(expert.parameters.begin(), expert.parameters.end(), std::back_inserter(gradient.parameters));
  }
  gradient.input = Combine(own.routing, input.size(0), grad_gathered, nullptr).addmm_(grad_logits, router_);
  if (add.defined()) gradient.input.add_(add, add_scale);
  return gradient;
}

double MoeBranch::FlopsPerToken(int64_t) const {
  return 6 * static_cast<double>(router_.numel() + kChoices * 3 * shape_.hidden * shape_.ffn_hidden);
}

}  // namespace normlab::trainer
