/* Preloaded into a test's process: makes the n-th write, flush, open or truncation of files under a watched folder
   fail. The process arms it through ctypes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { WRITES = 1, FLUSHES = 2, OPENS = 4, TRUNCATIONS = 8 };

static char folder[4096];
static char watched[65536];
static int kinds, error_number;
static volatile long countdown, remaining, hits;

void fault_watch(const char *path) { strncpy(folder, path, sizeof folder - 1); }
void fault_arm(int which, long nth, int error, long times) {
    kinds = which; error_number = error; countdown = nth; remaining = times; hits = 0;
}
void fault_disarm(void) { kinds = 0; }
long fault_hits(void) { return hits; }

static int fails(int kind) {
    if (!(kinds & kind)) return 0;
    if (__sync_sub_and_fetch(&countdown, 1) > 0) return 0;
    if (__sync_sub_and_fetch(&remaining, 1) < 0) return 0;
    __sync_add_and_fetch(&hits, 1);
    errno = error_number;
    return 1;
}
static int is_watched(int fd) { return fd >= 0 && fd < (int)sizeof watched && watched[fd]; }
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int open_any(const char *name, const char *path, int flags, mode_t mode) {
    int mine = folder[0] && strncmp(path, folder, strlen(folder)) == 0;
    if (mine && fails(OPENS)) return -1;
    int fd = ((int (*)(const char *, int, mode_t))real(name))(path, flags, mode);
    if (fd >= 0 && fd < (int)sizeof watched) watched[fd] = mine;
    return fd;
}
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return open_any(#name, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    if (fd >= 0 && fd < (int)sizeof watched) watched[fd] = 0;
    return ((int (*)(int))real("close"))(fd);
}
ssize_t write(int fd, const void *data, size_t size) {
    if (is_watched(fd) && fails(WRITES)) return -1;
    return ((ssize_t (*)(int, const void *, size_t))real("write"))(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    if (is_watched(fd) && fails(WRITES)) return -1;
    return ((ssize_t (*)(int, const void *, size_t, off_t))real("pwrite"))(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (is_watched(fd) && fails(WRITES)) return -1;
    return ((ssize_t (*)(int, const void *, size_t, off64_t))real("pwrite64"))(fd, data, size, at);
}
int fsync(int fd) {
    if (is_watched(fd) && fails(FLUSHES)) return -1;
    return ((int (*)(int))real("fsync"))(fd);
}
int fdatasync(int fd) {
    if (is_watched(fd) && fails(FLUSHES)) return -1;
    return ((int (*)(int))real("fdatasync"))(fd);
}
int ftruncate(int fd, off_t size) {
    if (is_watched(fd) && fails(TRUNCATIONS)) return -1;
    return ((int (*)(int, off_t))real("ftruncate"))(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    if (is_watched(fd) && fails(TRUNCATIONS)) return -1;
    return ((int (*)(int, off64_t))real("ftruncate64"))(fd, size);
}
