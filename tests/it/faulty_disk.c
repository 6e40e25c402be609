/* Loaded into a gateway before libc: once the file that FAULT_ARMED names is there, the call number FAULT_AFTER of the sort
 * FAULT_CALL (write or sync) on the ledger's files fails with FAULT_ERRNO, and so do all later ones, as on a disk that is full
 * or broken. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int calls;

static int is_ledger(int fd) {
  char link[64], name[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, name, sizeof name - 1);
  if (length < 0) return 0;
  name[length] = 0;
  return strstr(name, "/tollhouse.db") != NULL;
}

static int fails(const char *call, int fd) {
  const char *sort = getenv("FAULT_CALL"), *armed = getenv("FAULT_ARMED");
  if (!sort || !armed || strcmp(sort, call) != 0 || !is_ledger(fd) || access(armed, F_OK) != 0) return 0;
  if (atomic_fetch_add(&calls, 1) + 1 < atoi(getenv("FAULT_AFTER"))) return 0;
  errno = atoi(getenv("FAULT_ERRNO"));
  return 1;
}

#define NEXT(name, ...) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(__VA_ARGS__)

ssize_t write(int fd, const void *bytes, size_t count) {
  return fails("write", fd) ? -1 : NEXT(write, fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
  return fails("write", fd) ? -1 : NEXT(pwrite, fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
  return fails("write", fd) ? -1 : NEXT(pwrite64, fd, bytes, count, at);
}

int fsync(int fd) { return fails("sync", fd) ? -1 : NEXT(fsync, fd); }

int fdatasync(int fd) { return fails("sync", fd) ? -1 : NEXT(fdatasync, fd); }
