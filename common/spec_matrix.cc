// The product of the axes, and rules between fields, which only a complete run can be held to.
#include <algorithm>

#include "common/norm_plan.h"
#include "common/spec.h"
#include "common/spec_fields.h"
#include "common/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab {
namespace spec_internal {
namespace {

// Enough to see what is wrong; a matrix of 10,000 runs would say the same thing 10,000 times.
constexpr size_t kViolationsMax = 20;

struct CrossRule {
  const char* field;  // Path below RunSpec of the field to change.
  std::optional<std::string> (*check)(const v1::RunSpec& run);
};

std::optional<std::string> CheckHeads(const v1::RunSpec& run) {
  const int hidden = run.model().hidden(), heads = run.model().num_heads();
  if (hidden % heads != 0) {
    return fmt::format("is {}, which num_heads {} does not divide; the nearest multiples are {} and {}", hidden, heads,
                       hidden / heads * heads, (hidden / heads + 1) * heads);
  }
  const int head_size = hidden / heads;
  if (run.model().family() == "minimax" && head_size % 4 != 0) {
    return fmt::format(
        "is {}, so that each of {} heads has size {}; family minimax rotates half of a head in pairs and "
        "needs a multiple of 4",
        hidden, heads, head_size);
  }
  if (head_size % 2 == 0) return std::nullopt;
  return fmt::format("is {}, so that each of {} heads has size {}; RoPE rotates halves and needs an even size", hidden,
                     heads, head_size);
}

std::optional<std::string> CheckKeyValueHeads(const v1::RunSpec& run) {
  const int heads = run.model().num_heads(), kv_heads = run.model().num_kv_heads();
  if (kv_heads == 0 || (heads % kv_heads == 0 && run.model().family() == "minimax")) return std::nullopt;
  if (run.model().family() == "minimax")
    return fmt::format("is {}, which does not divide num_heads {}", kv_heads, heads);
  return fmt::format("is {}, but family {} has as many key and value heads as query heads; leave it out", kv_heads,
                     run.model().family());
}

std::optional<std::string> CheckPositions(const v1::RunSpec& run) {
  if (run.model().family() != "gpt2" || run.data().seq_len() <= run.model().max_positions()) return std::nullopt;
  return fmt::format("is {}, more than the {} positions that family gpt2 learns; raise model.max_positions",
                     run.data().seq_len(), run.model().max_positions());
}

std::optional<std::string> CheckBatch(const v1::RunSpec& run) {
  const int64_t batch = run.train().batch_size(), micro = run.train().micro_batch_size();
  const int64_t workers = run.resources().workers();
  const int64_t unit = std::max<int64_t>(micro, 1) * workers;
  if (batch % unit == 0) return std::nullopt;
  const std::string multiple = micro > 0 ? fmt::format("micro_batch_size {} * workers {} = {}", micro, workers, unit)
                                         : fmt::format("workers {}", workers);
  const std::string below = batch > unit ? fmt::format("{} or ", batch / unit * unit) : "";
  return fmt::format("is {}, which is no multiple of {}; use {}{}", batch, multiple, below, (batch / unit + 1) * unit);
}

std::optional<std::string> CheckWarmup(const v1::RunSpec& run) {
  if (run.train().warmup_steps() <= run.train().steps()) return std::nullopt;
  return fmt::format("is {}, more than steps {}; the run would end before its warmup", run.train().warmup_steps(),
                     run.train().steps());
}

std::optional<std::string> CheckWorkersMin(const v1::RunSpec& run) {
  if (run.resources().workers_min() <= run.resources().workers()) return std::nullopt;
  return fmt::format("is {}, more than workers {}", run.resources().workers_min(), run.resources().workers());
}

// nGPT puts the weights back on the sphere after each update; copies that this does not reach would undo it.
std::optional<std::string> CheckSphereDtype(const v1::RunSpec& run) {
  if (run.norm().scheme() != "ngpt" || run.train().param_dtype() == "fp32") return std::nullopt;
  return fmt::format("is {}; norm.scheme ngpt keeps its weights at length 1, which only fp32 does",
                     run.train().param_dtype());
}

std::optional<std::string> CheckSphereShards(const v1::RunSpec& run) {
  if (run.norm().scheme() != "ngpt" || run.train().zero_stage() == 0) return std::nullopt;
  return fmt::format("is {}; norm.scheme ngpt needs whole matrices on every rank: use 0", run.train().zero_stage());
}

std::optional<std::string> CheckTokens(const v1::RunSpec& run) {
  // Counts of tokens travel as doubles in JSON for programs; above 2^53 they would no longer be exact.
  static constexpr double kTokensMax = 9007199254740992.0;
  const double tokens = static_cast<double>(run.train().steps()) * run.train().batch_size() * run.data().seq_len();
  if (tokens <= kTokensMax) return std::nullopt;
  return fmt::format("is {}, which with batch_size {} and seq_len {} makes {:.3g} tokens; at most 2^53 are counted",
                     run.train().steps(), run.train().batch_size(), run.data().seq_len(), tokens);
}

NormSpec NormOf(const v1::NormSpec& norm) {
  return {.scheme = norm.scheme(),
          .mix_ln_ratio = norm.mix_ln_ratio(),
          .final_norm = norm.final_norm(),
          .kind = norm.kind(),
          .qk_norm = norm.qk_norm(),
          .lns_position = norm.lns_position(),
          .gpas = norm.gpas(),
          .embed_norm = norm.embed_norm(),
          .layer_scale_init = norm.layer_scale_init(),
          .dyt_alpha_attention = norm.dyt_alpha_attention(),
          .dyt_alpha_ffn = norm.dyt_alpha_ffn(),
          .dyt_alpha_final = norm.dyt_alpha_final(),
          .residual_dtype = norm.residual_dtype(),
          .placement = norm.placement(),
          .output_scale = norm.output_scale(),
          .residual_scale = norm.residual_scale(),
          .branch_scale = norm.branch_scale(),
          .init_gain = norm.init_gain(),
          .init_gain_of = norm.init_gain_of(),
          .init_family = norm.init_family(),
          .p = norm.p(),
          .q = norm.q()};
}

/// What keeps a model from being built with these norms. An expression is tried at every block.
std::optional<Violation> CheckNorms(const v1::RunSpec& run) {
  const NormSpec norm = NormOf(run.norm());
  const int num_layers = run.model().num_layers();
  try {  // The plans are shared with the trainer, which throws.
    const bool depends_on_depth = norm.scheme == kCustomScheme;
    for (int layer = 1; layer <= (depends_on_depth ? num_layers : 1); ++layer) {
      const BlockPlan plan = PlanBlock(norm, layer, num_layers);
      const bool changes_attention = plan.qkv_norms.IsAny() || norm.scheme == "ngpt";
      if (changes_attention && run.model().family() != "llama") {
        return Violation{"norm.scheme",
                         fmt::format("{} with qk_norm {} changes attention, which family {} cannot; use family llama",
                                     norm.scheme, norm.qk_norm, run.model().family())};
      }
    }
  } catch (const NormSpecError& error) {
    return Violation{fmt::format("norm.{}", error.field), error.problem};
  }
  return std::nullopt;
}

constexpr CrossRule kCrossRules[] = {
    {"model.hidden", CheckHeads},
    {"model.num_kv_heads", CheckKeyValueHeads},
    {"data.seq_len", CheckPositions},
    {"train.batch_size", CheckBatch},
    {"train.warmup_steps", CheckWarmup},
    {"train.steps", CheckTokens},
    {"resources.workers_min", CheckWorkersMin},
    {"train.param_dtype", CheckSphereDtype},
    {"train.zero_stage", CheckSphereShards},
};

struct Axis {
  std::string name;
  const google::protobuf::ListValue* values;
};

std::vector<Axis> SortedAxes(const v1::ExperimentSpec& spec) {
  std::vector<Axis> axes;
  for (const auto& [name, values] : spec.matrix()) axes.push_back({name, &values});
  std::sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.name < b.name; });
  return axes;
}

absl::StatusOr<int> CountRuns(const std::vector<Axis>& axes) {
  double product = 1;  // Not an integer: sixteen long axes would wrap one.
  std::vector<std::string> factors;
  for (const Axis& axis : axes) {
    product *= axis.values->values_size();
    factors.push_back(fmt::format("{} {}", axis.values->values_size(), axis.name));
  }
  if (product <= kRunsMax) return static_cast<int>(product);
  return absl::ResourceExhaustedError(
      fmt::format("the matrix makes {:.0f} runs ({}), at most {} are allowed; take out values or split the experiment",
                  product, fmt::join(factors, " * "), kRunsMax));
}

/// Run `place` (from 0) of the product.
ExpandedRun ExpandOne(const v1::RunSpec& base, const std::vector<Axis>& axes, int place) {
  ExpandedRun run{.spec = base};
  for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
    const Value& value = axis->values->values(place % axis->values->values_size());
    place /= axis->values->values_size();
    SetLeaf(&run.spec, axis->name, value);
    run.axes[axis->name] = ValueText(value);
  }
  FillPreset(run.spec.mutable_model());
  return run;
}

std::string AxesText(const ExpandedRun& run) {
  std::vector<std::string> pairs;
  for (const auto& [name, value] : run.axes) pairs.push_back(fmt::format("{}={}", name, value));
  return fmt::format("{}", fmt::join(pairs, " "));
}

void AddViolation(const ExpandedRun& run, Violation violation, std::vector<Violation>* violations) {
  if (!run.axes.empty()) violation.message += fmt::format(" (run with {})", AxesText(run));
  if (violations->size() < kViolationsMax) violations->push_back(std::move(violation));
}

void CheckRun(const ExpandedRun& run, std::vector<Violation>* violations) {
  for (const CrossRule& rule : kCrossRules) {
    if (auto problem = rule.check(run.spec)) AddViolation(run, {rule.field, *std::move(problem)}, violations);
  }
  if (auto violation = CheckNorms(run.spec)) AddViolation(run, *std::move(violation), violations);
}

}  // namespace

absl::Status ExpandInto(const v1::ExperimentSpec& spec, std::vector<ExpandedRun>* runs,
                        std::vector<Violation>* violations) {
  const std::vector<Axis> axes = SortedAxes(spec);
  NORMLAB_ASSIGN_OR_RETURN(const int num_runs, CountRuns(axes));
  v1::RunSpec base = spec.base();
  FillRuleDefaults(&base);
  runs->reserve(num_runs);
  for (int place = 0; place < num_runs; ++place) {
    runs->push_back(ExpandOne(base, axes, place));
    CheckRun(runs->back(), violations);
  }
  return absl::OkStatus();
}

}  // namespace spec_internal

absl::StatusOr<std::vector<ExpandedRun>> ExpandMatrix(const v1::ExperimentSpec& spec) {
  std::vector<ExpandedRun> runs;
  std::vector<Violation> violations;
  NORMLAB_RETURN_IF_ERROR(spec_internal::ExpandInto(spec, &runs, &violations));
  NORMLAB_RETURN_IF_ERROR(ViolationsToStatus(violations));
  return runs;
}

}  // namespace normlab
