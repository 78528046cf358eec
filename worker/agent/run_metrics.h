// Every metric of a run, as a table: a row is a family, its help text and how a report gives its value.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "normlab/v1/trainer_event.pb.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"

namespace normlab::agent {

/// The series that one kind of report sets, from the first report that has a value for them until this object ends.
/// Keeps the references from Add: looking a series up by its labels costs a lock and a hash of all of them.
template <typename Report>
class SeriesOf;

/// The families of all runs. One thread changes values; scrapes come from any thread.
class RunFamilies {
 public:
  explicit RunFamilies(prometheus::Registry& registry);
  ~RunFamilies();

 private:
  friend class RunMetrics;
  using Gauges = std::vector<prometheus::Family<prometheus::Gauge>*>;  // One per row of the table.

  Gauges step_, layer_, depth_, eval_, checkpoint_;
  prometheus::Family<prometheus::Counter>& tokens_total_;
};

/// The series of one attempt; they go away with this object.
class RunMetrics {
 public:
  RunMetrics(RunFamilies& families, const std::string& experiment, const std::string& run, const std::string& norm,
             int64_t seed);
  ~RunMetrics();
  RunMetrics(const RunMetrics&) = delete;
  RunMetrics& operator=(const RunMetrics&) = delete;

  void Observe(const v1::TrainerEvent& event);

 private:
  void CountTokens(int64_t tokens);

  RunFamilies& families_;
  const prometheus::Labels labels_;
  std::unique_ptr<SeriesOf<v1::StepReport>> step_;
  std::map<int, std::unique_ptr<SeriesOf<v1::LayerStats>>> layers_;
  std::unique_ptr<SeriesOf<v1::LayerReport>> depth_;
  std::unique_ptr<SeriesOf<v1::EvalReport>> eval_;
  std::unique_ptr<SeriesOf<v1::CheckpointSaved>> checkpoint_;
  prometheus::Counter* tokens_total_ = nullptr;
};

}  // namespace normlab::agent
