#include "coordinator/engine/testing/script.h"

#include <absl/strings/ascii.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

// Every scenario of testdata/*.txt is one test. With NORMLAB_REWRITE_SCRIPTS=1 in the environment the files are written
// anew with what follows today: read the difference as carefully as code.
namespace normlab::engine {
namespace {

std::vector<std::filesystem::path> ScriptFiles() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(NORMLAB_SCRIPTS)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<Scenario> AllScenarios() {
  std::vector<Scenario> all;
  for (const auto& file : ScriptFiles()) {
    for (Scenario& scenario : ReadScenarios(file.string())) all.push_back(std::move(scenario));
  }
  return all;
}

/// "A lease is over" -> "ALeaseIsOver".
std::string TestName(const testing::TestParamInfo<Scenario>& info) {
  std::string name;
  bool starts_word = true;
  for (const char c : info.param.title) {
    if (absl::ascii_isalnum(c)) name += starts_word ? absl::ascii_toupper(c) : c;
    starts_word = !absl::ascii_isalnum(c);
  }
  return name;
}

class ScriptTest : public testing::TestWithParam<Scenario> {};

TEST_P(ScriptTest, DoesWhatIsWritten) { EXPECT_EQ(RunScenario(GetParam()), GetParam().text); }

INSTANTIATE_TEST_SUITE_P(Scenario, ScriptTest, testing::ValuesIn(AllScenarios()), TestName);

TEST(ScriptFilesTest, AreRewrittenOnlyOnRequest) {
  if (std::getenv("NORMLAB_REWRITE_SCRIPTS") == nullptr) GTEST_SKIP() << "NORMLAB_REWRITE_SCRIPTS is not set";
  for (const auto& path : ScriptFiles()) {
    std::string text;
    for (const Scenario& scenario : ReadScenarios(path.string())) {
      text += (text.empty() ? "=== " : "\n=== ") + scenario.title + "\n" + RunScenario(scenario);
    }
    std::ofstream(path) << text;
  }
}

}  // namespace
}  // namespace normlab::engine
