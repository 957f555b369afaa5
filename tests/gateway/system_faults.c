/* Preloaded into the gateway: a wall clock that is two hours ahead while a file exists, a disk and a name resolution that hang while a file exists, a disk that is full for logs
   or for the state store while a file exists, and a process that is killed in the middle of a write to a log. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int exists(const char *variable) {
    const char *file = getenv(variable);
    return file && access(file, F_OK) == 0;
}

static void hang_while(const char *variable) {
    while (exists(variable)) usleep(10000);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME && result == 0 && exists("CLOCK_AHEAD")) time->tv_sec += 7200;
    return result;
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    hang_while("HANG_DISK");
    return real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    hang_while("HANG_DISK");
    return real(fd);
}

/* The name of this file is in HANG_NAME. */
static void hang_to_open(const char *path) {
    const char *name = getenv("HANG_NAME"), *last = strrchr(path, '/');
    if (name && strcmp(last ? last + 1 : path, name) == 0) hang_while("HANG_OPEN");
}

int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    hang_to_open(path);
    return real(path, flags, mode);
}

/* The first letter of its name, if the file is a log; else 0. */
static int log_letter(int fd) {
    char link[32], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    const char *last = length > 6 && strcmp(path + length - 6, ".jsonl") == 0 ? strrchr(path, '/') : NULL;
    return last ? last[1] & 31 : 0;
}

/* What is taken of the last bytes of the disk, for each log: lines are torn when they run out. */
#define ROOM 200
static atomic_long taken[32];

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    int letter = exists("KILL_WRITE") || exists("FULL_DISK") ? log_letter(fd) : 0;
    if (letter && exists("KILL_WRITE")) {
        real(fd, bytes, count / 2);
        kill(getpid(), SIGKILL);
    }
    if (letter && exists("FULL_DISK")) {
        long left = ROOM - atomic_fetch_add(&taken[letter], count);
        if (left <= 0) {
            errno = ENOSPC;
            return -1;
        }
        return real(fd, bytes, (size_t)left < count ? (size_t)left : count);
    }
    return real(fd, bytes, count);
}

/* Whether it is the file of the state store. */
static int is_store(int fd) {
    char link[32], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 11 && strcmp(path + length - 11, "/state.redb") == 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    if (exists("FULL_STORE") && is_store(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, bytes, count, offset);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    hang_while("HANG_NAMES");
    return real(node, service, hints, found);
}
