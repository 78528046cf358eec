#include "worker/trainer/train/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "common/durable_file.h"
#include "common/strict_json.h"

namespace normlab::trainer {
namespace {

// As in the reference implementation: a longer header is refused before memory is taken for it.
constexpr uint64_t kHeaderBytesMax = 100'000'000;

std::string Header(const std::vector<NamedArray>& arrays) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  uint64_t offset = 0;
  for (const NamedArray& array : arrays) {
    const uint64_t end = offset + array.values.size_bytes();
    header[array.name] = {{"dtype", "F32"}, {"shape", array.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

uint64_t NumElements(const std::vector<int64_t>& shape) {
  uint64_t count = 1;
  for (const int64_t size : shape) count *= static_cast<uint64_t>(size);
  return count;
}

/// IEEE binary16.
float FromHalf(uint16_t bits) {
  const float sign = (bits & 0x8000u) != 0 ? -1.0f : 1.0f;
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

float FromBfloat16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

std::ifstream Open(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw FileError(fmt::format("cannot open {}", path.string()), errno);
  return file;
}

}  // namespace

FileDigest WriteSafetensors(const std::filesystem::path& path, const std::vector<NamedArray>& arrays) {
  DurableFile file(path);
  Sha256 hash;
  const auto write = [&](const void* data, size_t size) {
    hash.Update(data, size);
    file.Write(data, size);
  };
  const std::string header = Header(arrays);
  const uint64_t header_bytes = header.size();
  write(&header_bytes, sizeof(header_bytes));
  write(header.data(), header.size());
  for (const NamedArray& array : arrays) write(array.values.data(), array.values.size_bytes());
  file.Close();
  return {.bytes = file.size(), .sha256 = hash.Finish()};
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path) : path_(path) {
  std::ifstream file = Open(path);
  const uint64_t file_bytes = std::filesystem::file_size(path);
  uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
  if (!file || header_bytes > kHeaderBytesMax || header_bytes + 8 > file_bytes) {
    throw std::runtime_error(fmt::format("{} is no safetensors file: {} bytes, its header would have {}", path.string(),
                                         file_bytes, header_bytes));
  }
  std::string text(header_bytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(header_bytes));
  try {
    const nlohmann::json document = nlohmann::json::parse(text);
    StrictObject header(document, "");
    for (const auto& [name, unused] : document.items()) {
      if (name == "__metadata__") continue;
      StrictObject entry = header.Child(name);
      const auto shape = entry.Member("shape").get<std::vector<int64_t>>();
      const auto offsets = entry.Member("data_offsets").get<std::vector<uint64_t>>();
      const std::string dtype = entry.Text("dtype");
      if (dtype != "F32" && dtype != "BF16" && dtype != "F16") continue;
      const Type type = dtype == "F32" ? Type::kF32 : dtype == "BF16" ? Type::kBf16 : Type::kF16;
      const uint64_t bytes = NumElements(shape) * (type == Type::kF32 ? 4 : 2);
      if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > file_bytes - 8 - header_bytes ||
          offsets[1] - offsets[0] != bytes) {
        throw JsonError(fmt::format("{}: is no {} array inside the file's {} bytes", name, dtype, file_bytes));
      }
      entries_[name] = {.type = type, .shape = shape, .offset = 8 + header_bytes + offsets[0]};
    }
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("{} has a damaged header: {}", path.string(), error.what()));
  } catch (const JsonError& error) {
    throw std::runtime_error(fmt::format("{} has a damaged header: {}", path.string(), error.what()));
  }
}

void SafetensorsReader::Read(const std::string& name, const std::vector<int64_t>& shape,
                             std::span<float> values) const {
  const auto entry = entries_.find(name);
  if (entry == entries_.end())
    throw std::runtime_error(fmt::format("{} has no float array \"{}\"", path_.string(), name));
  if (entry->second.shape != shape) {
    throw std::runtime_error(fmt::format("{}: \"{}\" has shape [{}], the model has [{}]", path_.string(), name,
                                         fmt::join(entry->second.shape, ", "), fmt::join(shape, ", ")));
  }
  std::ifstream file = Open(path_);
  file.seekg(static_cast<std::streamoff>(entry->second.offset));
  if (entry->second.type == Type::kF32) {
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
  } else {
    std::vector<uint16_t> halves(values.size());
    file.read(reinterpret_cast<char*>(halves.data()), static_cast<std::streamsize>(values.size_bytes() / 2));
    const auto convert = entry->second.type == Type::kF16 ? FromHalf : FromBfloat16;
    std::transform(halves.begin(), halves.end(), values.begin(), convert);
  }
  if (!file) throw FileError(fmt::format("cannot read \"{}\" from {}", name, path_.string()), errno);
}

const std::vector<int64_t>* SafetensorsReader::FindShape(const std::string& name) const {
  const auto entry = entries_.find(name);
  return entry == entries_.end() ? nullptr : &entry->second.shape;
}

std::vector<std::string> SafetensorsReader::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, unused] : entries_) names.push_back(name);
  return names;
}

}  // namespace normlab::trainer
