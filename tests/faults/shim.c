/* Makes the n-th operation on files below one folder fail, or kills the process there.

   Loaded with LD_PRELOAD; does nothing until fault_arm() is called. A write that is hit puts half
   of its bytes on disk first, as a full disk or a power cut does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, FSYNC = 4, RENAME = 8, MKDIR = 16 };

static char folder[4096];
static int watched = 0;   /* which kinds count */
static long nth = 0;      /* the operation that is hit, from 1; 0 only counts */
static int error_number;  /* what the operation fails with; 0 kills the process */
static int is_lasting;    /* all later operations of these kinds fail too */
static long seen = 0;

void fault_arm(const char *path, int kinds, long n, int error, int lasting) {
  snprintf(folder, sizeof folder, "%s", path);
  nth = n;
  error_number = error;
  is_lasting = lasting;
  seen = 0;
  watched = kinds;
}

long fault_count(void) { return seen; }

static int is_below(const char *path) { return path && strncmp(path, folder, strlen(folder)) == 0; }

static int is_handle_below(int handle) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

/* 1: this operation must fail. */
static int is_hit(int kind) {
  if (!(watched & kind)) return 0;
  seen++;
  if (nth == 0 || seen < nth || (seen > nth && !is_lasting)) return 0;
  if (error_number == 0 && kind != WRITE) raise(SIGKILL);
  errno = error_number;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int handle, const void *data, size_t size) {
  if (watched && is_handle_below(handle) && is_hit(WRITE)) {
    ssize_t half = REAL(write)(handle, data, size / 2);
    if (error_number == 0) raise(SIGKILL);
    if (half > 0 && is_lasting) return half; /* the rest comes as another write, which fails */
    errno = error_number;
    return -1;
  }
  return REAL(write)(handle, data, size);
}

int fsync(int handle) {
  if (watched && is_handle_below(handle) && is_hit(FSYNC)) return -1;
  return REAL(fsync)(handle);
}

int rename(const char *from, const char *to) {
  if (watched && is_below(to) && is_hit(RENAME)) return -1;
  return REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode) {
  if (watched && is_below(path) && is_hit(MKDIR)) return -1;
  return REAL(mkdir)(path, mode);
}

#define OPENER(name)                                                        \
  int name(const char *path, int flags, ...) {                              \
    mode_t mode = 0;                                                        \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                  \
      va_list rest;                                                         \
      va_start(rest, flags);                                                \
      mode = va_arg(rest, mode_t);                                          \
      va_end(rest);                                                         \
    }                                                                       \
    if (watched && (flags & O_CREAT) && is_below(path) && is_hit(OPEN))     \
      return -1;                                                            \
    return REAL(name)(path, flags, mode);                                   \
  }
OPENER(open)
OPENER(open64)
