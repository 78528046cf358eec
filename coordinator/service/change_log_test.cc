#include "coordinator/service/change_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace normlab::service {
namespace {

using ::testing::ElementsAre;

RunId Id(int index) { return {ExperimentId{1}, index}; }

class ChangeLogTest : public ::testing::Test {
 protected:
  /// One tick whose revision is `revision`, in which these runs changed, each with a revision of its own.
  void Tick(int64_t revision, const std::map<int, int64_t>& changed) {
    std::set<RunId> ids;
    for (const auto& [index, run_revision] : changed) {
      state_.runs[Id(index)].id = Id(index);
      state_.runs[Id(index)].revision = run_revision;
      ids.insert(Id(index));
    }
    state_.revision = revision;
    log_.Append(state_, ids);
  }

  /// The revisions of the changes from there on.
  std::vector<int64_t> ReadAll(uint64_t sequence) {
    std::vector<int64_t> revisions;
    const auto page = log_.Read(sequence, {Id(1), Id(2)}, 100);
    for (const auto& run : page->runs) revisions.push_back(run->revision);
    return revisions;
  }

  engine::State state_;
  ChangeLog log_{4};
};

TEST_F(ChangeLogTest, GivesChangesInTheOrderOfTheirRevisions) {
  log_.Begin(10);
  Tick(12, {{1, 12}, {2, 11}});
  Tick(13, {{1, 13}, {3, 13}});
  EXPECT_THAT(ReadAll(log_.Find(10)->sequence), ElementsAre(11, 12, 13));
  EXPECT_THAT(ReadAll(log_.Find(11)->sequence), ElementsAre(12, 13));
  EXPECT_THAT(ReadAll(log_.Find(13)->sequence), ElementsAre());
}

TEST_F(ChangeLogTest, KnowsNothingFromBeforeItsBeginningNorOfTheFuture) {
  log_.Begin(10);
  EXPECT_TRUE(log_.Find(10).has_value());
  EXPECT_FALSE(log_.Find(9).has_value());
  EXPECT_FALSE(log_.Find(11).has_value());
}

TEST_F(ChangeLogTest, SaysSoWhenWhatIsAskedForIsNotKept) {
  log_.Begin(0);
  const uint64_t begin = log_.Find(0)->sequence;
  for (int64_t revision = 1; revision <= 6; ++revision) Tick(revision, {{1, revision}});
  EXPECT_FALSE(log_.Read(begin, {Id(1)}, 100).has_value());
  EXPECT_FALSE(log_.Find(1).has_value());
  EXPECT_EQ(log_.oldest_revision(), 2);
  EXPECT_THAT(ReadAll(log_.Find(2)->sequence), ElementsAre(3, 4, 5, 6));
}

TEST_F(ChangeLogTest, CountsARevisionAsSeenOnlyWhenAllItsChangesAre) {
  log_.Begin(0);
  Tick(1, {{1, 1}, {2, 1}});
  const auto first = log_.Read(log_.Find(0)->sequence, {Id(1), Id(2)}, 1);
  EXPECT_EQ(first->next.revision, 0);
  EXPECT_FALSE(first->is_end);
  const auto second = log_.Read(first->next.sequence, {Id(1), Id(2)}, 1);
  EXPECT_EQ(second->next.revision, 1);
  EXPECT_TRUE(second->is_end);
}

}  // namespace
}  // namespace normlab::service
