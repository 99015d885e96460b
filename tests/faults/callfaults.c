/* Preloaded into an agent: at its n-th call that changes or syncs a file, kill it or make the call
 * fail. Counts over all threads, and what SQLite does as well as what Python does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long left = 0; /* calls until the one that is hit; 0: unarmed, -1: spent */
static int failure = 0; /* 0: kill; else the errno that the call ends with */

void faults_arm(long number, int error) { failure = error; left = number; }
int faults_spent(void) { return left == -1; }

static int hit(void) {
    if (left <= 0 || atomic_fetch_sub(&left, 1) != 1) return 0;
    left = -1; /* spent */
    if (failure == 0) kill(getpid(), SIGKILL);
    errno = failure;
    return 1;
}

static int plain(int fd) {
    struct stat seen;
    int before = errno, is = fstat(fd, &seen) == 0 && S_ISREG(seen.st_mode);
    errno = before;
    return is;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CALL(type, name, parameters, arguments, condition)            \
    type name parameters {                                            \
        static __typeof__(&name) next;                                \
        if (!next) next = NEXT(name);                                 \
        if ((condition) && hit()) return -1;                          \
        return next arguments;                                        \
    }

CALL(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), plain(fd))
CALL(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), 1)
CALL(int, fsync, (int fd), (fd), 1)
CALL(int, fdatasync, (int fd), (fd), 1)
CALL(int, syncfs, (int fd), (fd), 1)
CALL(int, ftruncate64, (int fd, off64_t n), (fd, n), 1)
CALL(int, fchmod, (int fd, mode_t m), (fd, m), 1)
CALL(int, chmod, (const char *p, mode_t m), (p, m), 1)
CALL(int, mkdir, (const char *p, mode_t m), (p, m), 1)
CALL(int, rmdir, (const char *p), (p), 1)
CALL(int, unlink, (const char *p), (p), 1)
CALL(int, unlinkat, (int d, const char *p, int f), (d, p, f), 1)
CALL(int, rename, (const char *a, const char *b), (a, b), 1)
CALL(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), 1)
CALL(int, symlink, (const char *a, const char *b), (a, b), 1)
CALL(int, link, (const char *a, const char *b), (a, b), 1)
CALL(int, linkat, (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f), 1)

int open64(const char *path, int flags, ...) {
    static __typeof__(&open64) next;
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    if (!next) next = NEXT(open64);
    if ((flags & O_CREAT) && hit()) return -1;
    return next(path, flags, mode);
}
