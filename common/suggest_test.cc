#include "common/suggest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace normlab {
namespace {

using ::testing::Optional;

TEST(SuggestTest, FindsTheNameThatASlipOfTheFingersMeant) {
  const std::vector<std::string> known = {"num_layers", "num_heads", "hidden", "lr", "seed"};
  EXPECT_THAT(NearestName("num_layer", known), Optional(std::string("num_layers")));
  EXPECT_THAT(NearestName("hiden", known), Optional(std::string("hidden")));
  EXPECT_THAT(NearestName("sede", known), Optional(std::string("seed")));
  EXPECT_THAT(NearestName("LR", known), Optional(std::string("lr")));
}

TEST(SuggestTest, GivesNothingForAWordThatIsFarFromAll) {
  EXPECT_EQ(NearestName("dropout", {"hidden", "lr"}), std::nullopt);
  EXPECT_EQ(NearestName("", {"lr"}), std::nullopt);
  EXPECT_EQ(DidYouMean("dropout", {"hidden"}), "");
  EXPECT_EQ(DidYouMean("hiden", {"hidden"}), "; did you mean 'hidden'?");
}

}  // namespace
}  // namespace normlab
