// Folders and trainers that a test makes and that go with it.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace normlab::agent {

class TempFolder {
 public:
  TempFolder() {
    std::string name = testing::TempDir() + "normlab-agent-XXXXXX";
    path_ = std::filesystem::canonical(mkdtemp(name.data()));
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

  /// An executable shell script in this folder.
  std::filesystem::path Script(const std::string& name, const std::string& body) const {
    const std::filesystem::path path = path_ / name;
    std::ofstream(path) << "#!/bin/sh\n" << body;
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }

 private:
  std::filesystem::path path_;
};

inline std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace normlab::agent
