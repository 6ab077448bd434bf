/* Makes the n-th operation on files below one folder fail, or kills the process there.

   Loaded with LD_PRELOAD; does nothing until fault_arm() is called. A write that is hit puts half
   of its bytes on disk first, as a full disk or a power cut does. fault_log() keeps a record of all
   that is done below the folder; after network_cut() no connection can be made. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
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

static int log_handle = -1;

void fault_log(const char *path) {
  log_handle = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
}

/* One line "kind size path<tab>other", then the bytes that were written. */
static void record(char kind, const char *path, const char *other, const void *data, size_t size) {
  if (log_handle < 0) return;
  char line[9000];
  int length = snprintf(line, sizeof line, "%c %zu %s\t%s\n", kind, size, path, other);
  REAL(write)(log_handle, line, length);
  for (size_t done = 0; done < size;) {
    ssize_t part = REAL(write)(log_handle, (const char *)data + done, size - done);
    if (part <= 0) return;
    done += part;
  }
}

static void record_handle(char kind, int handle, const void *data, size_t size) {
  char link[64], path[4096];
  if (log_handle < 0) return;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return;
  path[length] = 0;
  record(kind, path, "", data, size);
}

ssize_t write(int handle, const void *data, size_t size) {
  if (watched && is_handle_below(handle) && is_hit(WRITE)) {
    ssize_t half = REAL(write)(handle, data, size / 2);
    if (error_number == 0) raise(SIGKILL);
    if (half > 0 && is_lasting) return half; /* the rest comes as another write, which fails */
    errno = error_number;
    return -1;
  }
  ssize_t written = REAL(write)(handle, data, size);
  if (watched && written > 0 && is_handle_below(handle)) record_handle('W', handle, data, written);
  return written;
}

int fsync(int handle) {
  if (watched && is_handle_below(handle) && is_hit(FSYNC)) return -1;
  int failed = REAL(fsync)(handle);
  if (watched && !failed && is_handle_below(handle)) record_handle('S', handle, "", 0);
  return failed;
}

int rename(const char *from, const char *to) {
  if (watched && is_below(to) && is_hit(RENAME)) return -1;
  int failed = REAL(rename)(from, to);
  if (watched && !failed && is_below(to)) record('R', from, to, "", 0);
  return failed;
}

int unlink(const char *path) {
  int failed = REAL(unlink)(path);
  if (watched && !failed && is_below(path)) record('U', path, "", "", 0);
  return failed;
}

int mkdir(const char *path, mode_t mode) {
  if (watched && is_below(path) && is_hit(MKDIR)) return -1;
  int failed = REAL(mkdir)(path, mode);
  if (watched && !failed && is_below(path)) record('M', path, "", "", 0);
  return failed;
}

static int is_network_cut = 0;

void network_cut(void) { is_network_cut = 1; }

int connect(int handle, const struct sockaddr *address, socklen_t length) {
  if (is_network_cut && address->sa_family != AF_UNIX) {
    errno = ENETUNREACH;
    return -1;
  }
  return REAL(connect)(handle, address, length);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  if (is_network_cut) return EAI_AGAIN;
  return REAL(getaddrinfo)(node, service, hints, found);
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
    int handle = REAL(name)(path, flags, mode);                             \
    if (watched && handle >= 0 && (flags & O_CREAT) && is_below(path))      \
      record(flags & O_TRUNC ? 'T' : 'O', path, "", "", 0);                 \
    return handle;                                                          \
  }
OPENER(open)
OPENER(open64)
