#include "worker/trainer/train/file_digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

#include "common/durable_file.h"

namespace normlab::trainer {
namespace {

void Check(int openssl_result) {
  if (openssl_result != 1) throw std::runtime_error("OpenSSL cannot compute SHA-256");
}

}  // namespace

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  Check(EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr));
}
Sha256::~Sha256() = default;

void Sha256::Update(const void* data, size_t size) { Check(EVP_DigestUpdate(context_->evp, data, size)); }

std::string Sha256::Finish() {
  std::array<unsigned char, 32> digest;
  Check(EVP_DigestFinal_ex(context_->evp, digest.data(), nullptr));
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

std::string Sha256Of(std::string_view text) {
  Sha256 hash;
  hash.Update(text.data(), text.size());
  return hash.Finish();
}

FileDigest DigestFile(const std::filesystem::path& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  if (!file) throw FileError(fmt::format("cannot open {}", path.string()), errno);
  Sha256 hash;
  FileDigest digest;
  std::vector<char> buffer(1 << 20);
  while (const size_t read = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
    hash.Update(buffer.data(), read);
    digest.bytes += read;
  }
  if (std::ferror(file.get())) {
    throw FileError(fmt::format("cannot read {} after {} bytes", path.string(), digest.bytes), errno);
  }
  digest.sha256 = hash.Finish();
  return digest;
}

}  // namespace normlab::trainer
