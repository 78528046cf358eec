// normlab-prepare as a process: killed at any moment, interrupted, and how much memory it takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <random>

#include "common/token_shard.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

struct Ended {
  int status = 0;  // Of waitpid.
  rusage usage{};
  bool is_ok() const { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
  double cpu_seconds() const {
    const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + time.tv_usec * 1e-6; };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }
};

/// Waits for files that get their final name in a folder.
class RenameWatch {
 public:
  explicit RenameWatch(const fs::path& folder) : fd_(inotify_init1(IN_CLOEXEC)) {
    inotify_add_watch(fd_, folder.c_str(), IN_MOVED_TO);
  }
  RenameWatch(const RenameWatch&) = delete;
  RenameWatch& operator=(const RenameWatch&) = delete;
  ~RenameWatch() { close(fd_); }

  /// False if the process ends before.
  bool SeesRenames(int count, pid_t pid) const {
    const int process = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    while (count > 0) {
      pollfd polls[] = {{.fd = fd_, .events = POLLIN}, {.fd = process, .events = POLLIN}};
      poll(polls, 2, -1);
      if (polls[0].revents == 0) break;
      alignas(inotify_event) char buffer[4096];
      const ssize_t size = read(fd_, buffer, sizeof(buffer));
      for (const char* next = buffer; next < buffer + size; --count) {
        next += sizeof(inotify_event) + reinterpret_cast<const inotify_event*>(next)->len;
      }
    }
    close(process);
    return count <= 0;
  }

 private:
  const int fd_;
};

class PrepareProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("prepare_program_{}_{}", info->name(), getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "in");
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  /// JSON Lines of words, in `num_files` gzip files.
  void WriteInput(int num_files, int lines) {
    static constexpr const char* kSyllables[] = {"nor", "ma", "li", "za", "tion", "ker", "nel", "ten", "sor", "la"};
    std::mt19937 random(5);
    for (int i = 0; i < num_files; ++i) {
      gzFile file = gzopen(Path(fmt::format("in/c4-{}.json.gz", i)).c_str(), "wb1");
      for (int line = 0; line < lines; ++line) {
        std::string text;
        const int num_words = line % 17 == 0 ? 0 : 5 + static_cast<int>(random() % 120);
        for (int word = 0; word < num_words; ++word) {
          for (int i = 0; i < 3; ++i) text += kSyllables[random() % std::size(kSyllables)];
          text += " ";
        }
        const std::string json = fmt::format("{{\"text\": \"{}\", \"url\": \"u{}\"}}\n", text, line);
        gzwrite(file, json.data(), static_cast<unsigned>(json.size()));
      }
      gzclose(file);
    }
  }

  /// Starts the program; its stderr goes to a file. With `cpu_seconds` above 0 it dies without a word when it has used
  /// so much: as by SIGKILL at a moment that no load on the machine changes.
  pid_t Start(const std::vector<std::string>& flags, double cpu_seconds = 0) {
    std::vector<std::string> arguments = {NORMLAB_PREPARE};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    const pid_t pid = fork();
    if (pid != 0) return pid;
    if (freopen(Path("stderr").c_str(), "w", stderr) == nullptr) _exit(3);
    if (freopen("/dev/null", "w", stdout) == nullptr) _exit(3);
    const auto microseconds = static_cast<suseconds_t>(cpu_seconds * 1e6);
    const itimerval limit{.it_value = {.tv_sec = microseconds / 1'000'000, .tv_usec = microseconds % 1'000'000}};
    setitimer(ITIMER_PROF, &limit, nullptr);
    execv(pointers[0], pointers.data());
    _exit(127);
  }
  static Ended Wait(pid_t pid) {
    Ended ended;
    wait4(pid, &ended.status, 0, &ended.usage);
    return ended;
  }
  Ended Run(const std::vector<std::string>& flags, double cpu_seconds = 0) { return Wait(Start(flags, cpu_seconds)); }

  std::string Read(const fs::path& path) const {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  std::map<std::string, std::string> Files(const std::string& folder) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_ / folder)) {
      files[entry.path().filename().string()] = Read(entry.path());
    }
    return files;
  }

  /// Makes the tokenizer that the others take: training it would be most of their time.
  void TrainTokenizer() {
    const Ended ended = Run({"--json", "--out", Path("first"), "--vocab-size", "300", "--threads", "1", Path("in")});
    ASSERT_TRUE(ended.is_ok()) << Read(Path("stderr"));
  }
  std::vector<std::string> Flags(const std::string& out, int threads, int shard_tokens = 6000) const {
    return {"--json",
            "--out",
            Path(out),
            "--tokenizer",
            Path("first/tokenizer.model"),
            "--threads",
            fmt::format("{}", threads),
            "--validation-every",
            "7",
            "--shard-tokens",
            fmt::format("{}", shard_tokens),
            Path("in")};
  }

  fs::path folder_;
};

TEST_F(PrepareProgramTest, KilledAtAnyMomentItGoesOnToTheSameBytes) {
  WriteInput(3, 700);
  TrainTokenizer();
  const Ended whole = Run(Flags("whole", 1));
  ASSERT_TRUE(whole.is_ok()) << Read(Path("stderr"));
  const auto expected = Files("whole");
  ASSERT_GT(expected.size(), 15u);

  std::mt19937 random(11);
  int kills = 0;
  for (int threads : {1, 2, 3}) {
    const std::string out = fmt::format("killed-{}", threads);
    for (int attempt = 0; attempt < 7; ++attempt) {
      const double share = std::uniform_real_distribution<>(0.02, 0.6)(random);
      const Ended ended = Run(Flags(out, threads), whole.cpu_seconds() * share);
      kills += WIFSIGNALED(ended.status);
      // Killed behind the manifest's rename it had done all; a manifest that came too early would differ below.
      if (ended.is_ok() || fs::exists(folder_ / out / kManifestFile)) break;
    }
    ASSERT_TRUE(Run(Flags(out, threads)).is_ok()) << Read(Path("stderr"));
    const auto files = Files(out);
    EXPECT_EQ(files.size(), expected.size());
    for (const auto& [name, bytes] : expected) EXPECT_TRUE(files.contains(name) && files.at(name) == bytes) << name;
  }
  EXPECT_GT(kills, 5);
}

TEST_F(PrepareProgramTest, AnInterruptKeepsFinishedShardsAndLeavesNothingTorn) {
  WriteInput(3, 3000);
  TrainTokenizer();
  fs::create_directories(folder_ / "out");
  const RenameWatch watch(folder_ / "out");
  const pid_t pid = Start(Flags("out", 2, 30'000));
  ASSERT_TRUE(watch.SeesRenames(3, pid)) << "the tokenizer, the first state, the first shard";
  kill(pid, SIGINT);
  const Ended ended = Wait(pid);
  ASSERT_TRUE(WIFEXITED(ended.status));
  EXPECT_EQ(WEXITSTATUS(ended.status), 130);
  EXPECT_THAT(Read(Path("stderr")), HasSubstr("finished shard(s) are kept, the same command goes on behind them"));
  for (const auto& [name, bytes] : Files("out")) EXPECT_FALSE(name.ends_with(".tmp")) << name;
  EXPECT_TRUE(fs::exists(folder_ / "out/prepare.json"));
  ASSERT_TRUE(Run(Flags("out", 1, 30'000)).is_ok());
  ASSERT_TRUE(Run(Flags("whole", 2, 30'000)).is_ok());
  EXPECT_EQ(Files("out"), Files("whole"));
}

TEST_F(PrepareProgramTest, MemoryDoesNotGrowWithTheInput) {
  WriteInput(1, 400);
  TrainTokenizer();
  // What is not the text is dropped by the threads that encode, so the reader could be far ahead of them.
  gzFile file = gzopen(Path("in/c4-big.json.gz").c_str(), "wb1");
  const std::string line = fmt::format("{{\"text\": \"nor ma\", \"rest\": \"{}\"}}\n", std::string(20'000, 'x'));
  for (int i = 0; i < 12'500; ++i) gzwrite(file, line.data(), static_cast<unsigned>(line.size()));
  gzclose(file);
  const Ended ended = Run(Flags("out", 2, 1 << 20));
  ASSERT_TRUE(ended.is_ok()) << Read(Path("stderr"));
  EXPECT_EQ(ReadManifest(folder_ / "out").train.documents + ReadManifest(folder_ / "out").validation.documents,
            12'500 + 400 - 24);
  EXPECT_LT(ended.usage.ru_maxrss, 120 << 10) << "KiB, for 250 MB of input";
}

TEST_F(PrepareProgramTest, AFileThatCannotBeWrittenIsNamedAndWhatIsFinishedStays) {
  WriteInput(3, 700);
  TrainTokenizer();
  // The tokenizer and the state stay below the limit, a shard of 20,000 tokens does not.
  std::signal(SIGXFSZ, SIG_IGN);  // Inherited: write fails with EFBIG instead.
  rlimit limit;
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit small{.rlim_cur = 30'000, .rlim_max = limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const Ended ended = Run(Flags("full", 2, 20'000));
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, SIG_DFL);
  ASSERT_TRUE(WIFEXITED(ended.status));
  EXPECT_EQ(WEXITSTATUS(ended.status), 1);
  EXPECT_THAT(Read(Path("stderr")), HasSubstr("normlab: cannot write "));
  EXPECT_THAT(Read(Path("stderr")), HasSubstr("-00000.tokens.tmp ("));
  for (const auto& [name, bytes] : Files("full")) EXPECT_FALSE(name.ends_with(".tmp")) << name;
  EXPECT_TRUE(Run(Flags("full", 2, 20'000)).is_ok()) << "with room again";
}

TEST_F(PrepareProgramTest, ASecondCallInTheSameFolderIsRefused) {
  WriteInput(3, 3000);
  TrainTokenizer();
  fs::create_directories(folder_ / "out");
  const RenameWatch watch(folder_ / "out");
  const pid_t pid = Start(Flags("out", 1, 30'000));
  ASSERT_TRUE(watch.SeesRenames(1, pid));
  kill(pid, SIGSTOP);
  const Ended second = Run(Flags("out", 1, 30'000));
  EXPECT_EQ(WEXITSTATUS(second.status), 4);
  EXPECT_THAT(Read(Path("stderr")), HasSubstr("another `normlab data prepare` works in "));
  kill(pid, SIGKILL);
  Wait(pid);
  EXPECT_TRUE(Run(Flags("out", 2, 30'000)).is_ok());
}

}  // namespace
}  // namespace normlab::cli
