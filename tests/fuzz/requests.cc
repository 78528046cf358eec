// From requests to commands: whatever a client sends, the engine is given a checked command or nothing. The first byte
// chooses the request, the others are its protobuf.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <string>

#include "coordinator/service/convert.h"
#include "coordinator/service/limits.h"
#include "tests/fuzz/check.h"

namespace {

using namespace normlab;           // NOLINT(build/namespaces)
using namespace normlab::service;  // NOLINT(build/namespaces)

void CheckRefusal(const absl::Status& status) {
  Check(absl::IsInvalidArgument(status) || absl::IsResourceExhausted(status),
        "a refusal blames the request: " + status.ToString());
  Check(!status.message().empty(), "a refusal says why");
}

template <typename Request, typename Use>
void Try(const std::string& bytes, Use use) {
  Request request;
  if (!request.ParseFromString(bytes)) return;
  const auto command = ToCommand(request);
  command.ok() ? use(*command) : CheckRefusal(command.status());
}

void CheckSelector(const engine::Selector& selector) {
  Check(!selector.runs.empty() || selector.experiment || !selector.labels.empty() || !selector.states.empty(),
        "a change chooses something");
  Check(std::is_sorted(selector.runs.begin(), selector.runs.end()), "runs are in order");
}

void TryReport(const std::string& bytes) {
  v1::AttemptReport report;
  if (!report.ParseFromString(bytes)) return;
  const auto command = ToCommand(report, WorkerId{"w"}, "i");
  if (!command.ok()) return CheckRefusal(command.status());
  Check(command->sequence >= 1, "sequences begin at 1");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const google::protobuf::LogSilencer kSilence;  // It logs each input whose text is no UTF-8.
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0:
      Try<v1::CreateExperimentRequest>(bytes, [](const engine::CreateExperiment& command) {
        Check(!command.runs.empty() && command.runs.size() <= static_cast<size_t>(kRunsMax), "1 to kRunsMax runs");
      });
      break;
    case 1:
      Try<v1::CancelRunsRequest>(bytes, [](const engine::CancelRuns& command) { CheckSelector(command.selector); });
      break;
    case 2:
      Try<v1::RequeueRunsRequest>(bytes, [](const engine::RequeueRuns& command) { CheckSelector(command.selector); });
      break;
    case 3:
      Try<v1::WorkerHello>(bytes, [](const engine::WorkerHello& command) {
        Check(!command.worker.name.empty() && command.worker.name.size() <= kIdBytesMax, "a worker has a name");
      });
      break;
    case 4:
      TryReport(bytes);
      break;
  }
  return 0;
}
