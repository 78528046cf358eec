#include "coordinator/service/auth_scope.h"

#include <fmt/format.h>

#include <optional>
#include <utility>
#include <vector>

#include "coordinator/service/run_scan.h"

namespace normlab::service {

absl::Status RestrictToOwn(const View& view, const std::string& owner, engine::Selector& selector) {
  std::vector<RunId> own;
  std::optional<RunId> first_other;
  std::string other;
  int num_others = 0;
  ScanRuns(view.state, selector, std::nullopt, [&](const engine::Run& run, bool is_chosen) {
    if (!is_chosen) return true;
    const std::string& of = view.state.experiments.at(run.id.experiment).owner;
    if (of == owner) {
      own.push_back(run.id);
    } else if (num_others++ == 0) {
      first_other = run.id;
      other = of;
    }
    return true;
  });
  if (num_others > 0) {
    return absl::PermissionDeniedError(
        fmt::format("{} is {}'s ({} of the {} chosen runs are not {}'s); a submitter may change only own runs, an "
                    "operator all",
                    first_other->ToString(), other, num_others, num_others + own.size(), owner));
  }
  if (own.empty()) return absl::NotFoundError("there is no such run");
  selector.runs = std::move(own);
  return absl::OkStatus();
}

}  // namespace normlab::service
