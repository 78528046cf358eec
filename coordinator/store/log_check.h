#pragma once

#include <absl/status/status.h>

#include <string>
#include <string_view>

// What RocksDB's own reader of write-ahead logs and MANIFESTs lets pass. It takes every record at a file's end that is
// shorter than its header says for one that a crash cut off, and drops it with everything behind it. A damaged length
// in the last 32 KiB looks just so, and then acknowledged records would vanish without a word. The two can be told
// apart:
//
//   - what a crash left of a record is its beginning, and nothing lies behind it: forgiven, as it was never
//   acknowledged;
//   - if whole records lie behind it, or its checksum fits what is there once the length is left out of account, it is
//     damaged: refused;
//   - a record of full length whose checksum does not fit may have been acknowledged: refused.
//
// What nobody can tell apart is a record that a crash cut off and one that was acknowledged and then cut off by a disk
// that lies about syncs.
//
//   file     = block*                              of 32768 bytes, the last one shorter
//   block    = record* trailer                     trailer: fewer than 7 bytes
//   record   = checksum:u32 length:u16 type:u8 payload      little-endian; type: 1 to 4, as nothing is recycled here
//   checksum = masked CRC-32C of type and payload
namespace normlab::store {

/// CRC-32C (Castagnoli), as RocksDB, iSCSI and ext4 have it.
uint32_t Crc32c(std::string_view bytes);

/// DATA_LOSS that names `path` and the byte if `content`, which is that file's, is damaged; OK if it is whole or ends
/// in a record that was cut off.
absl::Status CheckLog(const std::string& path, std::string_view content);

/// Checks the files of the RocksDB database in `folder` that are read once, at its opening: CURRENT, the MANIFEST that
/// it names, and the write-ahead logs. OK if there is no database. DATA_LOSS names the file.
absl::Status CheckDatabaseFiles(const std::string& folder);

}  // namespace normlab::store
