#include "coordinator/store/backup_files.h"

#include <absl/strings/escaping.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>

#include "common/durable_file.h"
#include "common/status.h"

namespace normlab::store {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPieceBytes = 1 << 20;
constexpr char kManifestFile[] = "backup.json";

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

class InputFile {
 public:
  explicit InputFile(const fs::path& path) : path_(path), fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw FileError(fmt::format("cannot open {}", path.string()), errno);
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile() { close(fd_); }

  /// 0 at the end.
  size_t Read(std::vector<char>& piece) const {
    while (true) {
      const ssize_t size = read(fd_, piece.data(), piece.size());
      if (size >= 0) return static_cast<size_t>(size);
      if (errno != EINTR) throw FileError(fmt::format("cannot read {}", path_.string()), errno);
    }
  }

 private:
  const fs::path path_;
  const int fd_;
};

absl::Status Differs(const fs::path& path, const std::string& what) {
  return absl::DataLossError(fmt::format("{} {}: the backup is damaged, use another one", path.string(), what));
}

}  // namespace

absl::Status ProgressCount::Add(uint64_t bytes) {
  done_ += bytes;
  if (!on_progress_ || on_progress_(done_, total_)) return absl::OkStatus();
  return absl::CancelledError("it was asked to end");
}

absl::StatusOr<v1::BackupManifest::File> ReadFileForBackup(const fs::path& from, const fs::path& to,
                                                           ProgressCount& progress) {
  const std::unique_ptr<EVP_MD_CTX, FreeContext> hash(EVP_MD_CTX_new());
  EVP_DigestInit_ex(hash.get(), EVP_sha256(), nullptr);
  const InputFile input(from);
  std::optional<DurableFile> output;
  if (!to.empty()) output.emplace(to);
  std::vector<char> piece(kPieceBytes);
  v1::BackupManifest::File file;
  while (const size_t size = input.Read(piece)) {
    EVP_DigestUpdate(hash.get(), piece.data(), size);
    if (output) output->Write(piece.data(), size);
    file.set_bytes(file.bytes() + static_cast<int64_t>(size));
    NORMLAB_RETURN_IF_ERROR(progress.Add(size));
  }
  if (output) output->Close();
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned int digest_bytes = 0;
  EVP_DigestFinal_ex(hash.get(), reinterpret_cast<unsigned char*>(digest.data()), &digest_bytes);
  file.set_sha256(absl::BytesToHexString(digest.substr(0, digest_bytes)));
  return file;
}

absl::StatusOr<std::vector<std::string>> FilesBelow(const fs::path& folder) {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), folder).string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

absl::Status CheckFiles(const fs::path& folder, const v1::BackupManifest& manifest, const fs::path& to,
                        const OnProgress& on_progress) {
  uint64_t bytes = 0;
  std::set<std::string> known = {kManifestFile};
  for (const v1::BackupManifest::File& file : manifest.files()) {
    bytes += static_cast<uint64_t>(file.bytes());
    known.insert(file.path());
    const fs::path path(file.path());
    if (path.is_absolute() || std::find(path.begin(), path.end(), "..") != path.end()) {
      return Differs(folder / kManifestFile, fmt::format("names {}, which is not below its folder", file.path()));
    }
  }
  NORMLAB_ASSIGN_OR_RETURN(const std::vector<std::string> found, FilesBelow(folder));
  for (const std::string& path : found) {
    if (!known.contains(path)) return Differs(folder / path, "does not belong to the backup");
  }
  ProgressCount progress(on_progress, bytes);
  for (const v1::BackupManifest::File& file : manifest.files()) {
    const fs::path path = folder / file.path();
    if (!fs::exists(path)) return Differs(path, "is missing");
    if (!to.empty()) fs::create_directories((to / file.path()).parent_path());
    NORMLAB_ASSIGN_OR_RETURN(const auto read,
                             ReadFileForBackup(path, to.empty() ? fs::path() : to / file.path(), progress));
    if (read.bytes() != file.bytes()) {
      return Differs(path, fmt::format("has {} bytes instead of {}", read.bytes(), file.bytes()));
    }
    if (read.sha256() != file.sha256()) {
      return Differs(path, fmt::format("has SHA-256 {} instead of {}", read.sha256(), file.sha256()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::BackupManifest> ReadManifest(const fs::path& folder) {
  const fs::path path = folder / kManifestFile;
  std::ifstream file(path, std::ios::binary);
  // Through a stream: an iterator over the file throws where the disk cannot be read.
  std::ostringstream text;
  text << file.rdbuf();
  v1::BackupManifest manifest;
  const auto parsed = google::protobuf::util::JsonStringToMessage(text.str(), &manifest);
  if (file.is_open() && parsed.ok()) return manifest;
  return absl::FailedPreconditionError(
      fmt::format("{} is no backup: {} {}", folder.string(), path.string(),
                  file.is_open() ? "cannot be read: " + parsed.ToString() : "is missing"));
}

absl::Status WriteManifest(const fs::path& folder, const v1::BackupManifest& manifest) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto printed = google::protobuf::util::MessageToJsonString(manifest, &text, options);
  if (!printed.ok()) return absl::InternalError(printed.ToString());
  WriteFileDurably(folder / kManifestFile, text);
  return absl::OkStatus();
}

absl::Status Guarded(const std::function<absl::Status()>& work) {
  try {
    return work();
  } catch (const FileError& error) {
    return error.is_disk_full() ? absl::ResourceExhaustedError(error.what()) : absl::InternalError(error.what());
  } catch (const fs::filesystem_error& error) {
    return error.code() == std::errc::no_space_on_device ? absl::ResourceExhaustedError(error.what())
                                                         : absl::InternalError(error.what());
  } catch (const std::exception& error) {  // Nobody above catches: it would end the coordinator.
    return absl::InternalError(error.what());
  }
}

}  // namespace normlab::store
