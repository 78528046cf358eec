// Documents become tokens on several threads, in bounded memory and in order.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/corpus_reader.h"

namespace normlab::cli {

struct EncodedDocument {
  enum class Kind { kTokens, kEmpty, kInvalid };

  absl::Status status;  // Why the whole work must end here.
  DocumentPosition position;
  Kind kind = Kind::kTokens;
  std::vector<uint32_t> tokens;  // With the end-of-text piece; none unless kTokens.
  uint64_t num_given = 0;        // Tokens at the start that are not to be predicted.
  uint64_t text_bytes = 0;
  uint64_t corpus_position = 0;  // As RawDocument.
};

struct EncodeWork {
  /// The next document; false at the end. On one thread.
  std::function<absl::StatusOr<bool>(RawDocument*)> read;
  /// On several threads at once.
  std::function<EncodedDocument(RawDocument)> encode;
  /// In the order of `read`, on the calling thread.
  std::function<absl::Status(const EncodedDocument&)> consume;
};

struct EncodeLimits {
  int num_threads = 1;
  /// Documents that were read and not yet consumed have at most so many bytes of text, or are one.
  uint64_t window_bytes = 32 << 20;
};

/// Runs the work to the end or to the first error in the order of documents, whatever the number of threads: all
/// documents before it are consumed. What `consume` throws is thrown on, with all threads ended.
absl::Status EncodeInOrder(const EncodeWork& work, const EncodeLimits& limits);

}  // namespace normlab::cli
