#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "worker/trainer/train/file_digest.h"

// Named arrays in one file, in Hugging Face's format. Ours are float32; others' may also be bfloat16 or float16:
//
//   file   := header_bytes (u64, little-endian) header data
//   header := JSON {"__metadata__": {TEXT: TEXT, ...},
//                   NAME: {"dtype": "F32" | "BF16" | "F16", "shape": [N, ...], "data_offsets": [BEGIN, END]}, ...},
//             padded with spaces so that data starts at a multiple of 8; offsets count from the start of data
//   data   := the arrays, row-major, one after another without gaps
namespace normlab::trainer {

/// One array to write. The bytes belong to the caller and must live until it is written.
struct NamedArray {
  std::string name;
  std::vector<int64_t> shape;
  std::span<const float> values;
};

/// Creates `path`, durable when this returns (its name only after SyncFolder). Throws FileError.
FileDigest WriteSafetensors(const std::filesystem::path& path, const std::vector<NamedArray>& arrays);

/// Reads arrays by name. The header is checked against the file's size when it is opened.
class SafetensorsReader {
 public:
  /// Throws FileError if the file cannot be read, std::runtime_error if it is no safetensors file or is cut short.
  explicit SafetensorsReader(const std::filesystem::path& path);

  /// Fills `values`, converted to float32. Throws std::runtime_error if there is no such array or its shape is another.
  void Read(const std::string& name, const std::vector<int64_t>& shape, std::span<float> values) const;

  /// The shape of that array; null if there is none.
  const std::vector<int64_t>* FindShape(const std::string& name) const;

  /// The float arrays; those of other types are passed over.
  std::vector<std::string> Names() const;

 private:
  enum class Type { kF32, kBf16, kF16 };
  struct Entry {
    Type type;
    std::vector<int64_t> shape;
    uint64_t offset;  // From the start of the file.
  };

  std::filesystem::path path_;
  std::map<std::string, Entry> entries_;
};

}  // namespace normlab::trainer
