// What people see while documents are encoded.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/progress_line.h"
#include "cli/units.h"
#include "common/token_shard.h"
#include "fmt/format.h"

namespace normlab::cli {

/// Says how far the encoding is: text, documents, tokens, speed and time left.
class EncodeProgress {
 public:
  EncodeProgress(uint64_t corpus_bytes, bool is_silent) : corpus_bytes_(corpus_bytes), line_("tokenizing", is_silent) {}

  /// `corpus_position` is that of the newest document.
  void Update(uint64_t corpus_position, const ManifestSplit& train, const ManifestSplit& validation) {
    // The words cost more than a small document.
    if (is_begun_ && corpus_position < shown_position_ + kStepBytes) return;
    Show(corpus_position, train, validation);
  }

  void Finish(const ManifestSplit& train, const ManifestSplit& validation) {
    Show(corpus_bytes_, train, validation);
    line_.Finish();
  }

 private:
  static constexpr uint64_t kStepBytes = 16 << 10;

  void Show(uint64_t corpus_position, const ManifestSplit& train, const ManifestSplit& validation) {
    const int64_t text_bytes = train.text_bytes + validation.text_bytes;
    if (!is_begun_) {
      is_begun_ = true;
      first_position_ = corpus_position;
      first_text_bytes_ = text_bytes;
    }
    shown_position_ = corpus_position;
    const double seconds = std::max(1e-3, absl::ToDoubleSeconds(absl::Now() - started_at_));
    const auto done = static_cast<double>(corpus_position - first_position_);
    const auto left = static_cast<double>(corpus_bytes_ - corpus_position);
    const absl::Duration time_left = done > 0 ? absl::Seconds(seconds / done * left) : absl::InfiniteDuration();
    line_.Update(
        static_cast<double>(corpus_position) / static_cast<double>(std::max<uint64_t>(1, corpus_bytes_)),
        fmt::format("{} of text, {} documents, {} tokens, {}/s, {} left", BytesText(text_bytes),
                    CountText(static_cast<double>(train.documents + validation.documents)),
                    CountText(static_cast<double>(train.tokens + validation.tokens)),
                    BytesText(static_cast<int64_t>(static_cast<double>(text_bytes - first_text_bytes_) / seconds)),
                    DurationText(time_left)));
  }

  const uint64_t corpus_bytes_;
  const absl::Time started_at_ = absl::Now();
  bool is_begun_ = false;
  uint64_t first_position_ = 0;  // A resumed call begins in the middle.
  int64_t first_text_bytes_ = 0;
  uint64_t shown_position_ = 0;
  ProgressLine line_;
};

}  // namespace normlab::cli
