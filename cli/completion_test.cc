#include "cli/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "cli/app.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Script(const std::string& shell) {
  Session session;
  return CompletionScript(*MakeApp(session), shell);
}

/// What bash offers when Tab is pressed at the end of `words`.
std::string BashOffers(const std::string& words) {
  const std::string file = ::testing::TempDir() + "/normlab_completion.bash";
  std::ofstream(file) << Script("bash");
  const std::string command = fmt::format(
      "bash -c 'source {}; COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _normlab; "
      "echo \"${{COMPREPLY[*]}}\"'",
      file, words);
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096] = {};
  const size_t size = fread(buffer, 1, sizeof(buffer) - 1, pipe);
  EXPECT_EQ(pclose(pipe), 0);
  return std::string(buffer, size);
}

TEST(CompletionTest, BashOffersCommandsFlagsAndChoices) {
  EXPECT_EQ(BashOffers("normlab su"), "submit\n");
  EXPECT_EQ(BashOffers("normlab -o json ca"), "cancel\n");
  EXPECT_THAT(BashOffers("normlab data \"\""), HasSubstr("prepare"));
  EXPECT_EQ(BashOffers("normlab data prepare --val"), "--validation --validation-every\n");
  EXPECT_EQ(BashOffers("normlab requeue --from"), "--from-scratch\n");
  EXPECT_EQ(BashOffers("normlab requeue exp-0001 --pri"), "--priority\n");
  EXPECT_EQ(BashOffers("normlab list -o j"), "json\n");
  EXPECT_THAT(BashOffers("normlab list --"), HasSubstr("--server")) << "global flags may stand behind the command";
  EXPECT_THAT(BashOffers("normlab list --"), Not(HasSubstr("--from-scratch")));
}

TEST(CompletionTest, FishAndZshKnowEveryCommand) {
  Session session;
  const auto app = MakeApp(session);
  const std::string fish = CompletionScript(*app, "fish"), zsh = CompletionScript(*app, "zsh");
  for (const CLI::App* command : app->get_subcommands({})) {
    EXPECT_THAT(fish, HasSubstr(fmt::format("-a '{}'", command->get_name())));
    EXPECT_THAT(zsh, HasSubstr(command->get_name()));
  }
  EXPECT_THAT(fish, HasSubstr("-l from-scratch"));
  EXPECT_EQ(CompletionScript(*app, "tcsh"), "");
}

TEST(HelpTest, EveryCommandHasExamplesAndEveryFlagWords) {
  Session session;
  const auto app = MakeApp(session);
  EXPECT_THAT(app->help(), HasSubstr("130  interrupted"));
  for (const CLI::App* command : app->get_subcommands({})) {
    EXPECT_THAT(command->help(), HasSubstr("Examples:\n  ")) << command->get_name();
    for (const CLI::Option* option : command->get_options()) {
      EXPECT_NE(option->get_description(), "") << command->get_name() << " " << option->get_name();
    }
  }
}

}  // namespace
}  // namespace normlab::cli
