// The readers of a dataset: a shard's header and the manifest. The first byte chooses; a header that is meant to be
// read further gets the checksum that its bytes need.
#include "common/token_shard.h"

#include <cstring>
#include <string>

#include "tests/fuzz/check.h"

namespace {

using namespace normlab;  // NOLINT(build/namespaces)

void TryHeader(std::string bytes, bool has_good_checksum) {
  if (has_good_checksum && bytes.size() >= kShardHeaderBytes) {
    const uint32_t crc = Crc32(bytes.data(), kShardHeaderBytes - 4);
    std::memcpy(bytes.data() + kShardHeaderBytes - 4, &crc, 4);
  }
  try {
    const ShardHeader header = DecodeShardHeader(bytes.data(), bytes.size(), "fuzz");
    Check(header.FileBytes() == bytes.size(), "an accepted header describes the file");
    Check(header.ChecksumsOffset() <= bytes.size(), "its tokens lie in the file");
  } catch (const DatasetError&) {
  }
}

void TryManifest(const std::string& text) {
  try {
    const Manifest manifest = manifest_internal::ReadDocument(nlohmann::json::parse(text));
    Check(manifest.eos_id < manifest.vocab_size, "an accepted manifest has its rules");
  } catch (const JsonError&) {
  } catch (const nlohmann::json::exception&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      TryHeader(bytes, /*has_good_checksum=*/false);
      break;
    case 1:
      TryHeader(bytes, /*has_good_checksum=*/true);
      break;
    case 2:
      TryManifest(bytes);
      break;
  }
  return 0;
}
