// Stands in for libFuzzer where there is no clang: runs a fuzzer over a corpus and over mutations of it, the same ones
// each time.
//
//   fuzz_NAME ROUNDS CORPUS_FOLDER     each file, then ROUNDS mutations
//   fuzz_NAME FILE                     one input again
//
// What was being read when the process died is left in crash-NAME in the working directory.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr uint64_t kSeed = 1;
constexpr size_t kInputBytesMax = 1 << 16;

// What a signal handler may look at.
const char* current_data = nullptr;
size_t current_size = 0;
char crash_file[256];

void KeepInput(int number) {
  const int fd = open(crash_file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  for (size_t done = 0; fd >= 0 && done < current_size;) {
    const ssize_t written = write(fd, current_data + done, current_size - done);
    if (written <= 0) break;
    done += static_cast<size_t>(written);
  }
  signal(number, SIG_DFL);
  raise(number);
}

void Run(const std::string& input) {
  // A copy of its exact size, so that a sanitizer sees a read past its end.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  current_data = reinterpret_cast<const char*>(bytes.data());
  current_size = bytes.size();
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Mutator {
 public:
  explicit Mutator(const std::vector<std::string>& corpus) : corpus_(corpus) {}

  std::string Next() {
    std::string input = Any();
    for (size_t count = Below(4) + 1; count > 0; --count) Mutate(input);
    input.resize(std::min(input.size(), kInputBytesMax));
    return input;
  }

 private:
  size_t Below(size_t bound) { return bound == 0 ? 0 : random_() % bound; }
  const std::string& Any() { return corpus_[Below(corpus_.size())]; }
  /// A piece of some input.
  std::string Piece() {
    const std::string& from = Any();
    const size_t start = Below(from.size());
    return from.substr(start, Below(std::min<size_t>(from.size() - start, 40)) + 1);
  }

  void Mutate(std::string& input) {
    // Where readers' arithmetic ends.
    static const std::string kEdges[] = {std::string(1, '\0'),
                                         "\xff",
                                         "\xff\xff\xff\xff",
                                         "-1",
                                         "0",
                                         "9223372036854775808",
                                         "1e999",
                                         "nan",
                                         "{",
                                         "[",
                                         "&a [*a]",
                                         "\xed\xa0\x80"};
    const size_t at = Below(input.size() + 1);
    switch (Below(7)) {
      case 0:
        if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << Below(8)));
        break;
      case 1:
        if (at < input.size()) input[at] = static_cast<char>(Below(256));
        break;
      case 2:
        input.erase(at, Below(16) + 1);
        break;
      case 3:
        input.insert(at, Piece());
        break;
      case 4:
        input.insert(at, kEdges[Below(std::size(kEdges))]);
        break;
      case 5:
        input.resize(at);
        break;
      case 6:
        for (size_t count = Below(64); count > 0 && !input.empty(); --count)
          input.insert(at, 1, input[at % input.size()]);
        break;
    }
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_{kSeed};
};

}  // namespace

int main(int argc, char** argv) {
  std::snprintf(crash_file, sizeof(crash_file), "crash-%s", std::filesystem::path(argv[0]).filename().c_str());
  for (const int number : {SIGABRT, SIGSEGV, SIGFPE, SIGBUS, SIGILL}) signal(number, KeepInput);
  if (argc == 2) {
    Run(ReadAll(argv[1]));
    return 0;
  }
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s ROUNDS CORPUS_FOLDER | FILE\n", argv[0]);
    return 2;
  }
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(argv[2])) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());  // The order of a folder is not the same everywhere.
  std::vector<std::string> corpus;
  for (const auto& path : paths) corpus.push_back(ReadAll(path));
  if (corpus.empty()) {
    std::fprintf(stderr, "%s has no inputs\n", argv[2]);
    return 2;
  }
  for (const std::string& input : corpus) Run(input);
  Mutator mutator(corpus);
  const long rounds = std::strtol(argv[1], nullptr, 10);              // NOLINT(runtime/int): strtol's type.
  for (long round = 0; round < rounds; ++round) Run(mutator.Next());  // NOLINT(runtime/int)
  std::printf("%zu inputs and %ld mutations were read\n", corpus.size(), rounds);
  return 0;
}
