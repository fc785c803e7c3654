/* Preloaded into a test's process: writes down, in their order, what happens to files under a watched folder, for a
   replay of what a power cut may leave. Names, sizes and contents of writes; flushes when they have returned, with the
   place in the record where they began. `record_note` adds a line of the process's own.

   An entry: kind, a number that names the open file's inode, an offset, a length, and that many bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

struct entry { uint32_t kind, file; uint64_t offset, length; };
enum { NAME = 'n', WRITE = 'w', SIZE = 't', FLUSH = 'f', RENAME = 'r', UNLINK = 'u', LINK = 'l', FOLDER = 'd', NOTE = 's' };

static char folder[4096];
static int out = -1;
static uint64_t place;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t files[65536]; /* by descriptor: the inode's number, 0 for what is not watched */
static ino_t inodes[65536];
static uint32_t inodes_known;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }
static ssize_t real_write(int fd, const void *data, size_t size) {
    static ssize_t (*found)(int, const void *, size_t);
    if (!found) found = real("write");
    return found(fd, data, size);
}

static uint64_t add(uint32_t kind, uint32_t file, uint64_t offset, const void *data, uint64_t length) {
    struct entry head = { kind, file, offset, length };
    pthread_mutex_lock(&lock);
    uint64_t at = place;
    place += sizeof head + length;
    real_write(out, &head, sizeof head);
    for (uint64_t done = 0; done < length;) {
        ssize_t some = real_write(out, (const char *)data + done, length - done);
        if (some <= 0) abort();
        done += some;
    }
    pthread_mutex_unlock(&lock);
    return at;
}
static uint64_t now(void) {
    pthread_mutex_lock(&lock);
    uint64_t at = place;
    pthread_mutex_unlock(&lock);
    return at;
}

void record_start(const char *path, const char *file) {
    strncpy(folder, path, sizeof folder - 1);
    out = ((int (*)(const char *, int, mode_t))real("open"))(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0) abort();
}
void record_note(const char *text) { if (out >= 0) add(NOTE, 0, 0, text, strlen(text)); }

static const char *within(const char *path) {
    size_t size = strlen(folder);
    if (out < 0 || !size || strncmp(path, folder, size)) return NULL;
    return path[size] == '/' ? path + size + 1 : path[size] ? NULL : path + size;
}
static uint32_t number_of(ino_t inode) {
    pthread_mutex_lock(&lock);
    uint32_t at = inodes_known;
    while (at > 0 && inodes[at] != inode) at--;
    if (!at) inodes[at = ++inodes_known] = inode;
    pthread_mutex_unlock(&lock);
    return at;
}
static void forget(const char *path) { /* the kernel may give its inode to another file */
    struct stat found;
    if (stat(path, &found) || found.st_nlink > 1) return;
    pthread_mutex_lock(&lock);
    for (uint32_t at = inodes_known; at > 0; at--) if (inodes[at] == found.st_ino) inodes[at] = 0;
    pthread_mutex_unlock(&lock);
}

static int open_any(const char *name, const char *path, int flags, mode_t mode) {
    const char *mine = within(path);
    int fresh = mine && access(path, F_OK);
    int fd = ((int (*)(const char *, int, mode_t))real(name))(path, flags, mode);
    if (fd < 0 || fd >= (int)(sizeof files / sizeof *files)) return fd;
    files[fd] = 0;
    struct stat found;
    if (!mine || fstat(fd, &found)) return fd;
    if (S_ISDIR(found.st_mode)) { /* named by its path, as flushes of it are about names */
        files[fd] = 0x80000000u | number_of(found.st_ino);
        add(FOLDER, files[fd], 1, mine, strlen(mine));
        return fd;
    }
    if (!S_ISREG(found.st_mode)) return fd;
    files[fd] = number_of(found.st_ino);
    if (fresh && (flags & O_CREAT)) add(NAME, files[fd], 0, mine, strlen(mine));
    else if (flags & O_TRUNC) add(SIZE, files[fd], 0, "", 0);
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

static uint32_t file_of(int fd) { return out >= 0 && fd >= 0 && fd < 65536 ? files[fd] : 0; }

int close(int fd) {
    if (file_of(fd)) files[fd] = 0;
    return ((int (*)(int))real("close"))(fd);
}
ssize_t write(int fd, const void *data, size_t size) {
    off_t at = file_of(fd) ? lseek(fd, 0, SEEK_CUR) : 0;
    if (file_of(fd) && (fcntl(fd, F_GETFL) & O_APPEND)) at = lseek(fd, 0, SEEK_END);
    ssize_t done = real_write(fd, data, size);
    if (file_of(fd) && done > 0) add(WRITE, files[fd], at, data, done);
    return done;
}
#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t size, off_t at) { \
        ssize_t done = ((ssize_t (*)(int, const void *, size_t, off_t))real(#name))(fd, data, size, at); \
        if (file_of(fd) && done > 0) add(WRITE, files[fd], at, data, done); \
        return done; \
    }
PWRITE(pwrite)
PWRITE(pwrite64)
#define FLUSH_BY(name) \
    int name(int fd) { \
        uint64_t began = file_of(fd) ? now() : 0; \
        int failed = ((int (*)(int))real(#name))(fd); \
        if (file_of(fd) && !failed) add(FLUSH, files[fd], began, "", 0); \
        return failed; \
    }
FLUSH_BY(fsync)
FLUSH_BY(fdatasync)
#define TRUNCATE(name) \
    int name(int fd, off_t size) { \
        int failed = ((int (*)(int, off_t))real(#name))(fd, size); \
        if (file_of(fd) && !failed) add(SIZE, files[fd], size, "", 0); \
        return failed; \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

static void add_pair(uint32_t kind, const char *from, const char *to) {
    char both[8192];
    int size = snprintf(both, sizeof both, "%s\n%s", from, to);
    add(kind, 0, 0, both, size);
}
int rename(const char *from, const char *to) {
    const char *old = within(from), *new = within(to);
    if (new) forget(to);
    int failed = ((int (*)(const char *, const char *))real("rename"))(from, to);
    if (old && new && !failed) add_pair(RENAME, old, new);
    return failed;
}
int link(const char *from, const char *to) {
    const char *old = within(from), *new = within(to);
    int failed = ((int (*)(const char *, const char *))real("link"))(from, to);
    if (old && new && !failed) add_pair(LINK, old, new);
    return failed;
}
int unlink(const char *path) {
    const char *mine = within(path);
    if (mine) forget(path);
    int failed = ((int (*)(const char *))real("unlink"))(path);
    if (mine && !failed) add(UNLINK, 0, 0, mine, strlen(mine));
    return failed;
}
int mkdir(const char *path, mode_t mode) {
    const char *mine = within(path);
    int failed = ((int (*)(const char *, mode_t))real("mkdir"))(path, mode);
    if (mine && !failed) add(FOLDER, 0, 0, mine, strlen(mine));
    return failed;
}
