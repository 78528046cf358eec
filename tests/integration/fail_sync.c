// Loaded before the C library: once there is a file of the name NORMLAB_TEST_FAIL_SYNC, the next fdatasync of a
// write-ahead log removes it and fails. Every other one is the library's.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_log(int fd) {
  char link[64];
  char path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path);
  return length > 4 && memcmp(path + length - 4, ".log", 4) == 0;
}

int fdatasync(int fd) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  const char* trigger = getenv("NORMLAB_TEST_FAIL_SYNC");
  if (trigger != NULL && is_log(fd) && unlink(trigger) == 0) {
    errno = EIO;
    return -1;
  }
  return real(fd);
}
