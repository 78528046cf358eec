#pragma once

#include <cstdint>

namespace normlab::store {

/// How the database under a store is. Bytes and counts over all tables.
struct Statistics {
  uint64_t memtable_bytes = 0;            // In memory, also what is being written out.
  uint64_t sst_bytes = 0;                 // Tables on the disk.
  uint64_t wal_bytes = 0;                 // Logs on the disk.
  uint64_t block_cache_bytes = 0;         // Cached parts of tables, in memory.
  uint64_t pending_compaction_bytes = 0;  // That compactions have still to rewrite: a guess.
  uint64_t running_compactions = 0;
  uint64_t running_flushes = 0;
  bool is_write_stopped = false;          // Writers wait until flushes or compactions have caught up.
  uint64_t delayed_bytes_per_second = 0;  // Writers are slowed to this; 0: not slowed.
  uint64_t background_errors = 0;         // Of flushes and compactions, since the start.
  uint64_t wal_bytes_written = 0;         // Since the start.
  double write_stall_seconds = 0;         // For which writers were held up, since the start.
};

}  // namespace normlab::store
