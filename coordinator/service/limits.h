#pragma once

#include <cstddef>
#include <cstdint>

// Every bound on what a client may ask or send.
namespace normlab::service {

inline constexpr int kMessageBytesMax = 16 << 20;
/// Answers stop here and go on with the next page: below what a gRPC client takes by default (4 MiB).
inline constexpr size_t kPageBytesMax = 3 << 20;
inline constexpr int kPageSizeDefault = 100;
inline constexpr int kPageSizeMax = 1000;
inline constexpr int kHistoryPageSizeDefault = 1000;
inline constexpr int kHistoryPageSizeMax = 10'000;
/// Runs that one ListRuns call looks at; a page can be short because of it, or empty with a next token.
inline constexpr int kRunsScannedMax = 20'000;
/// Runs in one message of a watch.
inline constexpr int kWatchRunsMax = 500;
/// Log lines read from the store at a time.
inline constexpr int kLogLinesPerRead = 500;

inline constexpr size_t kIdBytesMax = 128;
inline constexpr size_t kReasonBytesMax = 1024;
inline constexpr size_t kLabelBytesMax = 256;
/// What a trainer says in words is cut here, not refused: its run has to go on.
inline constexpr size_t kWordsBytesMax = 16 << 10;
inline constexpr int kLabelsMax = 32;
inline constexpr int kSelectorRunsMax = 10'000;
inline constexpr int kHelloRunningMax = 64;
/// An analysis has a pair of angular distances for each pair of layers: this takes 700 layers.
inline constexpr size_t kAnalysisBytesMax = 2 << 20;

/// Streams (watches, logs) that one client may have open: all tokens of one name together, or all clients where no
/// tokens are asked for.
inline constexpr int kStreamsPerClientMax = 1000;
/// Sessions of workers in all.
inline constexpr int kSessionsMax = 20'000;
inline constexpr size_t kTokensMax = 10'000;
/// Refused calls that go into the audit log; more of them are counted and said in one line.
inline constexpr double kAuditedRefusalsPerSecond = 10;
inline constexpr double kAuditedRefusalsBurst = 100;

/// Reports of one session that wait for their commit; its stream is not read meanwhile.
inline constexpr int kSessionPendingMax = 256;
/// Messages that wait for a worker to read them; past it the session ends, and the worker comes back.
inline constexpr size_t kSessionOutgoingMax = 1024;

}  // namespace normlab::service
