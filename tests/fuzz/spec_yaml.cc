// The reader of experiment files: any text is read or refused, and what is read is written and read again as the same.
#include <string>

#include "common/spec.h"
#include "tests/fuzz/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto spec = normlab::ParseExperimentYaml(text, "fuzz.yaml");
  if (!spec.ok()) {
    Check(absl::IsInvalidArgument(spec.status()), "a refusal is INVALID_ARGUMENT");
    Check(!spec.status().message().empty(), "a refusal says why");
    return 0;
  }
  normlab::v1::ExperimentSpec sent;
  Check(sent.ParseFromString(spec->SerializeAsString()), "a spec that was read can be sent");
  const std::string yaml = normlab::ToYaml(*spec);
  const auto again = normlab::ParseExperimentYaml(yaml, "again.yaml");
  Check(again.ok(), "what was written is read: " + again.status().ToString() + "\n" + yaml);
  Check(normlab::SpecDigest(*again) == normlab::SpecDigest(*spec), "it is the same spec:\n" + yaml);
  Check(normlab::ExpandMatrix(*spec).ok(), "a spec that was read can be expanded");
  return 0;
}
