/* Faults in the file system, for tools/faults.py: a library that is loaded before the C library (LD_PRELOAD).

   It counts the calls of a process that concern paths below one folder, and at the n-th does what it was told: fails it
   with an error, kills the process, writes only half, or changes another file, as if somebody else had. What it is told
   and what it found lie in a file that both sides have mapped (FAULTS_STATE), the struct State below. It acts from the
   call of faults_start, or from the start if FAULTS_START is set, so that a process can fork the one to be disturbed.

   Calls that the C library makes within itself (those of stdio) are not seen: neither Python nor SQLite uses them. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utime.h>

/* Kinds of calls, bits; and what happens at the n-th: both as in tools/fault_shim.py. */
enum { MAKE = 1, DATA = 2, MOVE = 4, REMOVE = 8, SYNC = 16, LOCK = 32, ATTRIBUTE = 64, LOOK = 128 };
enum { COUNT, FAIL, KILL_BEFORE, KILL_AFTER, TEAR, FILL, RENAME, TRUNCATE };

struct State {
    char watched[1024];  /* only calls below this folder count */
    char guarded[1024];  /* a call that would change something below this one is a trespass */
    char from[1024];     /* RENAME, TRUNCATE: the file that changes */
    char to[1024];       /* RENAME: its new name */
    int64_t kinds;       /* bits */
    int64_t nth;         /* from 1 */
    int64_t action;
    int64_t error;       /* errno of FAIL */
    int64_t stays;       /* FAIL: all calls from the n-th */
    int64_t nolocks;     /* all locks fail, as on a share without them */
    int64_t count;       /* found: calls of these kinds so far */
    int64_t by_kind[8];  /* found: calls of each kind, also of others */
    int64_t done;        /* found: how often something was done */
    int64_t trespasses;  /* found */
    char what[1024];     /* found: the first call that something was done to */
    char trespass[1024]; /* found: the first */
};

static struct State *state;
static volatile int started;

#define REAL(name) ({ static __typeof__(&name) real_; if (!real_) real_ = dlsym(RTLD_NEXT, #name); real_; })

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("FAULTS_STATE");
    if (!path) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *place = mmap(NULL, sizeof(struct State), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (place == MAP_FAILED) return;
    state = place;
    started = getenv("FAULTS_START") != NULL;
}

int faults_start(void) {
    started = state != NULL;
    return started;
}

void faults_stop(void) { started = 0; }

static int below(const char *path, const char *folder) {
    size_t length = strlen(folder);
    return length && !strncmp(path, folder, length) && (path[length] == '/' || path[length] == 0);
}

/* The absolute path that a call names; "" where it cannot be told. Links in it are not resolved: the folders are real. */
static void absolute(int dir, const char *path, char *out) {
    out[0] = 0;
    if (!path) return;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    char folder[PATH_MAX], link[64];
    snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
    ssize_t length = syscall(SYS_readlink, link, folder, sizeof folder - 1);
    if (length < 0) return;
    folder[length] = 0;
    if (snprintf(out, PATH_MAX, path[0] ? "%s/%s" : "%s%s", folder, path) >= PATH_MAX) out[0] = 0;
}

static void behind(int fd, char *out) { absolute(fd, "", out); }

static void act(void) {
    if (state->action == RENAME) syscall(SYS_renameat2, AT_FDCWD, state->from, AT_FDCWD, state->to, 0);
    if (state->action == TRUNCATE) {
        struct stat found;
        int fd = (int)syscall(SYS_openat, AT_FDCWD, state->from, O_WRONLY | O_CLOEXEC, 0);
        if (fd < 0) return;
        if (!syscall(SYS_fstat, fd, &found)) (void)!syscall(SYS_ftruncate, fd, found.st_size / 2);
        syscall(SYS_close, fd);
    }
}

static void die(void) {
    syscall(SYS_kill, (int)syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

/* What is to happen to this call: COUNT (nothing), FAIL (errno is set), KILL_AFTER, TEAR, FILL. */
static int gate(int kind, const char *call, const char *path) {
    if (!started) return COUNT;
    int saved = errno;
    if (kind != LOOK && kind != LOCK && below(path, state->guarded) &&
        __atomic_add_fetch(&state->trespasses, 1, __ATOMIC_SEQ_CST) == 1)
        snprintf(state->trespass, sizeof state->trespass, "%s %s", call, path);
    int counts = below(path, state->watched);
    if (counts) __atomic_add_fetch(&state->by_kind[__builtin_ctz(kind)], 1, __ATOMIC_SEQ_CST);
    if (counts && kind == LOCK && state->nolocks) {
        errno = ENOLCK;
        return FAIL;
    }
    if (!counts || !(kind & state->kinds)) {
        errno = saved;
        return COUNT;
    }
    int64_t now = __atomic_add_fetch(&state->count, 1, __ATOMIC_SEQ_CST);
    int mine = now == state->nth || (state->stays && state->nth && now > state->nth);
    if (!mine || state->action == COUNT) {
        errno = saved;
        return COUNT;
    }
    if (__atomic_add_fetch(&state->done, 1, __ATOMIC_SEQ_CST) == 1)
        snprintf(state->what, sizeof state->what, "%s %s", call, path);
    int action = (int)state->action;
    if (action == KILL_BEFORE) die();
    if (action == FILL && (now > state->nth || kind != DATA)) action = FAIL; /* only the first gets half */
    if (action == RENAME || action == TRUNCATE) {
        act();
        action = COUNT;
    }
    errno = action == FAIL ? (int)state->error : saved;
    return action;
}

/* Around a call: its result, or -1 if it is to fail. */
#define GUARDED(kind, text, path, failed, made) ({           \
    int todo_ = gate(kind, text, path);                      \
    __typeof__(made) result_;                                \
    if (todo_ == FAIL) result_ = failed;                     \
    else {                                                   \
        result_ = made;                                      \
        if (todo_ == KILL_AFTER || todo_ == TEAR) die();     \
    }                                                        \
    result_; })

static int opening(int flags) {
    return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)) ? MAKE : LOOK;
}

#define OPEN(name, with, dir, ...)                                                              \
    int name with {                                                                             \
        mode_t mode = 0;                                                                        \
        char full[PATH_MAX];                                                                    \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                    \
            va_list rest;                                                                       \
            va_start(rest, flags);                                                              \
            mode = va_arg(rest, mode_t);                                                        \
            va_end(rest);                                                                       \
        }                                                                                       \
        if (!started) return REAL(name)(__VA_ARGS__, flags, mode);                              \
        absolute(dir, path, full);                                                              \
        return GUARDED(opening(flags), "open", full, -1, REAL(name)(__VA_ARGS__, flags, mode)); \
    }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(openat, (int dir, const char *path, int flags, ...), dir, dir, path)
OPEN(openat64, (int dir, const char *path, int flags, ...), dir, dir, path)

/* A call with a path, and one with a descriptor. */
#define BY_PATH(kind, type, name, with, dir, path, ...)                              \
    type name with {                                                                 \
        char full[PATH_MAX];                                                         \
        if (!started) return REAL(name)(__VA_ARGS__);                                \
        absolute(dir, path, full);                                                   \
        return GUARDED(kind, #name, full, (type)-1, REAL(name)(__VA_ARGS__));        \
    }
#define BY_FD(kind, type, name, with, fd, failed, ...)                               \
    type name with {                                                                 \
        char full[PATH_MAX];                                                         \
        if (!started) return REAL(name)(__VA_ARGS__);                                \
        behind(fd, full);                                                            \
        return GUARDED(kind, #name, full, failed, REAL(name)(__VA_ARGS__));          \
    }

BY_PATH(MAKE, int, creat, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
BY_PATH(MAKE, int, creat64, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
BY_PATH(MAKE, int, mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
BY_PATH(MAKE, int, mkdirat, (int dir, const char *path, mode_t mode), dir, path, dir, path, mode)
BY_PATH(MAKE, int, link, (const char *from, const char *to), AT_FDCWD, to, from, to)
BY_PATH(MAKE, int, linkat, (int dir, const char *from, int at, const char *to, int flags), at, to, dir, from, at, to, flags)
BY_PATH(MAKE, int, symlink, (const char *from, const char *to), AT_FDCWD, to, from, to)
BY_PATH(MAKE, int, symlinkat, (const char *from, int at, const char *to), at, to, from, at, to)
BY_PATH(MAKE, int, mkfifo, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
BY_PATH(REMOVE, int, unlink, (const char *path), AT_FDCWD, path, path)
BY_PATH(REMOVE, int, unlinkat, (int dir, const char *path, int flags), dir, path, dir, path, flags)
BY_PATH(REMOVE, int, rmdir, (const char *path), AT_FDCWD, path, path)
BY_PATH(REMOVE, int, remove, (const char *path), AT_FDCWD, path, path)
BY_PATH(ATTRIBUTE, int, chmod, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
BY_PATH(ATTRIBUTE, int, fchmodat, (int dir, const char *path, mode_t mode, int flags), dir, path, dir, path, mode, flags)
BY_PATH(ATTRIBUTE, int, chown, (const char *path, uid_t user, gid_t group), AT_FDCWD, path, path, user, group)
BY_PATH(ATTRIBUTE, int, utime, (const char *path, const struct utimbuf *times), AT_FDCWD, path, path, times)
BY_PATH(ATTRIBUTE, int, utimes, (const char *path, const struct timeval times[2]), AT_FDCWD, path, path, times)
BY_PATH(ATTRIBUTE, int, utimensat, (int dir, const char *path, const struct timespec times[2], int flags), dir,
        path, dir, path, times, flags)
BY_PATH(DATA, int, truncate, (const char *path, off_t size), AT_FDCWD, path, path, size)
BY_PATH(DATA, int, truncate64, (const char *path, off64_t size), AT_FDCWD, path, path, size)
BY_PATH(LOOK, int, stat, (const char *path, struct stat *found), AT_FDCWD, path, path, found)
BY_PATH(LOOK, int, stat64, (const char *path, struct stat64 *found), AT_FDCWD, path, path, found)
BY_PATH(LOOK, int, lstat, (const char *path, struct stat *found), AT_FDCWD, path, path, found)
BY_PATH(LOOK, int, lstat64, (const char *path, struct stat64 *found), AT_FDCWD, path, path, found)
BY_PATH(LOOK, int, fstatat, (int dir, const char *path, struct stat *found, int flags), dir, path, dir, path, found, flags)
BY_PATH(LOOK, int, fstatat64, (int dir, const char *path, struct stat64 *found, int flags), dir, path, dir, path, found,
        flags)

BY_FD(DATA, ssize_t, writev, (int fd, const struct iovec *parts, int count), fd, -1, fd, parts, count)
BY_FD(DATA, ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), fd, -1, fd, parts, count, at)
BY_FD(DATA, ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), fd, -1, fd, parts, count, at)
BY_FD(DATA, ssize_t, pwritev2, (int fd, const struct iovec *parts, int count, off_t at, int flags), fd, -1, fd, parts,
      count, at, flags)
BY_FD(DATA, ssize_t, pwritev64v2, (int fd, const struct iovec *parts, int count, off64_t at, int flags), fd, -1, fd, parts,
      count, at, flags)
BY_FD(DATA, ssize_t, sendfile, (int fd, int from, off_t *at, size_t size), fd, -1, fd, from, at, size)
BY_FD(DATA, ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t size), fd, -1, fd, from, at, size)
BY_FD(DATA, ssize_t, copy_file_range, (int from, off64_t *at, int fd, off64_t *to, size_t size, unsigned flags), fd, -1,
      from, at, fd, to, size, flags)
BY_FD(DATA, int, ftruncate, (int fd, off_t size), fd, -1, fd, size)
BY_FD(DATA, int, ftruncate64, (int fd, off64_t size), fd, -1, fd, size)
BY_FD(DATA, int, fallocate, (int fd, int mode, off_t at, off_t size), fd, -1, fd, mode, at, size)
BY_FD(DATA, int, fallocate64, (int fd, int mode, off64_t at, off64_t size), fd, -1, fd, mode, at, size)
BY_FD(DATA, int, posix_fallocate, (int fd, off_t at, off_t size), fd, errno, fd, at, size)
BY_FD(DATA, int, posix_fallocate64, (int fd, off64_t at, off64_t size), fd, errno, fd, at, size)
BY_FD(SYNC, int, fsync, (int fd), fd, -1, fd)
BY_FD(SYNC, int, fdatasync, (int fd), fd, -1, fd)
BY_FD(ATTRIBUTE, int, fchmod, (int fd, mode_t mode), fd, -1, fd, mode)
BY_FD(ATTRIBUTE, int, fchown, (int fd, uid_t user, gid_t group), fd, -1, fd, user, group)
BY_FD(ATTRIBUTE, int, futimens, (int fd, const struct timespec times[2]), fd, -1, fd, times)
BY_FD(LOOK, ssize_t, read, (int fd, void *to, size_t size), fd, -1, fd, to, size)
BY_FD(LOOK, ssize_t, pread, (int fd, void *to, size_t size, off_t at), fd, -1, fd, to, size, at)
BY_FD(LOOK, ssize_t, pread64, (int fd, void *to, size_t size, off64_t at), fd, -1, fd, to, size, at)
BY_FD(LOOK, int, fstat, (int fd, struct stat *found), fd, -1, fd, found)
BY_FD(LOOK, int, fstat64, (int fd, struct stat64 *found), fd, -1, fd, found)

/* A rename concerns two paths: it counts if either is watched. */
#define MOVING(name, with, one, from, two, to, ...)                                                   \
    int name with {                                                                                   \
        char old[PATH_MAX], new[PATH_MAX];                                                            \
        if (!started) return REAL(name)(__VA_ARGS__);                                                 \
        absolute(one, from, old);                                                                     \
        absolute(two, to, new);                                                                       \
        const char *full = below(new, state->watched) || below(new, state->guarded) ? new : old;      \
        return GUARDED(MOVE, #name, full, -1, REAL(name)(__VA_ARGS__));                               \
    }
MOVING(rename, (const char *from, const char *to), AT_FDCWD, from, AT_FDCWD, to, from, to)
MOVING(renameat, (int one, const char *from, int two, const char *to), one, from, two, to, one, from, two, to)
MOVING(renameat2, (int one, const char *from, int two, const char *to, unsigned flags), one, from, two, to, one, from, two,
       to, flags)

/* Plain writes can also be cut in half, as by a disk that is full or a machine that stops. */
#define WRITE(name, with, half, ...)                                                 \
    ssize_t name with {                                                              \
        char full[PATH_MAX];                                                         \
        if (!started) return REAL(name)(__VA_ARGS__);                                \
        behind(fd, full);                                                            \
        int todo = gate(DATA, #name, full);                                          \
        if (todo == FAIL) return -1;                                                 \
        if (todo == FILL && size < 2) {                                              \
            errno = (int)state->error;                                               \
            return -1;                                                               \
        }                                                                            \
        if (todo == FILL || todo == TEAR) size /= 2;                                 \
        ssize_t result = REAL(name)(__VA_ARGS__);                                    \
        if (todo == KILL_AFTER || todo == TEAR) die();                               \
        return result;                                                               \
    }
WRITE(write, (int fd, const void *data, size_t size), size, fd, data, size)
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), size, fd, data, size, at)
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), size, fd, data, size, at)

int flock(int fd, int operation) {
    char full[PATH_MAX];
    if (!started || (operation & LOCK_UN)) return REAL(flock)(fd, operation);
    behind(fd, full);
    return GUARDED(LOCK, "flock", full, -1, REAL(flock)(fd, operation));
}

/* Of fcntl only the locks of a part of a file, which SQLite takes; letting go of one does not fail. */
#define CONTROL(name)                                                                              \
    int name(int fd, int command, ...) {                                                           \
        char full[PATH_MAX];                                                                       \
        va_list rest;                                                                              \
        va_start(rest, command);                                                                   \
        void *argument = va_arg(rest, void *);                                                     \
        va_end(rest);                                                                              \
        int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW; \
        if (!started || !locks || ((struct flock *)argument)->l_type == F_UNLCK)                   \
            return REAL(name)(fd, command, argument);                                              \
        behind(fd, full);                                                                          \
        return GUARDED(LOCK, "fcntl", full, -1, REAL(name)(fd, command, argument));                \
    }
CONTROL(fcntl)
CONTROL(fcntl64)
