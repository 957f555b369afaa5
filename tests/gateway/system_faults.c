/* Preloaded into the gateway: a wall clock that is two hours ahead while a file exists, a machine that was suspended for the seconds that are in a file, a disk, a name resolution and a call of the audit log that hang while a file exists, a disk that is full for logs,
   for the state store or for the archive of orders while a file exists, and a process that is killed in the middle of a write to a log or to the archive. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int exists(const char *variable) {
    const char *file = getenv(variable);
    return file && access(file, F_OK) == 0;
}

static void hang_while(const char *variable) {
    while (exists(variable)) usleep(10000);
}

/* The number in the file; 0: there is none. */
static long number_in(const char *variable) {
    long number = 0;
    const char *name = getenv(variable);
    FILE *file = name ? fopen(name, "r") : NULL;
    if (!file) return 0;
    if (fscanf(file, "%ld", &number) != 1) number = 0;
    fclose(file);
    return number;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock != CLOCK_REALTIME || result != 0) return result;
    if (exists("CLOCK_AHEAD")) time->tv_sec += 7200;
    time->tv_sec += number_in("SUSPENDED");
    return result;
}

/* A copy of /proc/uptime that counts the suspend. */
static int open_uptime(int uptime) {
    double up = 0, idle = 0;
    char text[64] = "";
    ssize_t length = pread(uptime, text, sizeof text - 1, 0);
    int copy = memfd_create("uptime", MFD_CLOEXEC);
    if (length <= 0 || copy < 0 || sscanf(text, "%lf %lf", &up, &idle) != 2) abort();
    dprintf(copy, "%.2f %.2f\n", up + number_in("SUSPENDED"), idle);
    lseek(copy, 0, SEEK_SET);
    close(uptime);
    return copy;
}

/* Whether the path of an open file ends like this. */
static int is_file(int fd, const char *end) {
    char link[32], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1), wanted = strlen(end);
    return length > wanted && strcmp(path + length - wanted, end) == 0;
}

#define STORE "/state.redb"
#define ARCHIVE "/orders.redb"

/* HANG_FILES concerns everything in the state folder. */
static int in_state(const char *path) {
    return path && strstr(path, "/state") != NULL;
}

static void hang_files(int fd) {
    char link[32], path[4096] = "";
    if (!exists("HANG_FILES")) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) > 0 && in_state(path)) hang_while("HANG_FILES");
}

static void hang_path(const char *path) {
    if (exists("HANG_FILES") && in_state(path)) hang_while("HANG_FILES");
}

static void hang_archive(int fd) {
    if (exists("HANG_ARCHIVE") && is_file(fd, ARCHIVE)) hang_while("HANG_ARCHIVE");
}

/* A lookup in the archive looks at the file before and after it reads what it has not cached. */
static void hang_lookup(const char *path) {
    char thread[16] = "";
    if (!exists("HANG_LOOKUPS") || !path || !strstr(path, ARCHIVE)) return;
    if (prctl(PR_GET_NAME, thread) == 0 && strcmp(thread, "store-reader") == 0) hang_while("HANG_LOOKUPS");
}

/* The end of the path whose metadata hangs is in the file HANG_METADATA. */
static void hang_metadata(const char *path) {
    char end[64] = "";
    const char *name = getenv("HANG_METADATA");
    while (path && name && access(name, F_OK) == 0) {
        FILE *file = fopen(name, "r");
        if (file) {
            if (fscanf(file, "%63s", end) != 1) end[0] = 0;
            fclose(file);
        }
        size_t length = strlen(path), wanted = strlen(end);
        if (!wanted || length < wanted || strcmp(path + length - wanted, end) != 0) return;
        usleep(10000);
    }
}

DIR *opendir(const char *path) {
    DIR *(*real)(const char *) = dlsym(RTLD_NEXT, "opendir");
    hang_metadata(path);
    return real(path);
}

char *realpath(const char *path, char *resolved) {
    char *(*real)(const char *, char *) = dlsym(RTLD_NEXT, "realpath");
    hang_metadata(path);
    return real(path, resolved);
}

#define AUDIT "/audit.jsonl"

/* HANG_AUDIT concerns the audit log; the file names the call that hangs: open, stat or write. */
static void hang_audit(const char *call, int is_audit) {
    char named[16] = "";
    const char *name = getenv("HANG_AUDIT");
    while (is_audit && name && access(name, F_OK) == 0) {
        FILE *file = fopen(name, "r");
        if (file) {
            if (fscanf(file, "%15s", named) != 1) named[0] = 0;
            fclose(file);
        }
        if (strcmp(named, call) != 0) return;
        usleep(10000);
    }
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    hang_while("HANG_DISK");
    hang_files(fd);
    hang_archive(fd);
    return real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    hang_while("HANG_DISK");
    hang_files(fd);
    hang_archive(fd);
    return real(fd);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t offset) {
    ssize_t (*real)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
    hang_files(fd);
    return real(fd, bytes, count, offset);
}

int ftruncate64(int fd, off64_t length) {
    int (*real)(int, off64_t) = dlsym(RTLD_NEXT, "ftruncate64");
    hang_files(fd);
    return real(fd, length);
}

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    hang_path(from);
    return real(from, to);
}

int unlink(const char *path) {
    int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
    hang_path(path);
    return real(path);
}

int statx(int folder, const char *path, int flags, unsigned mask, struct statx *found) {
    int (*real)(int, const char *, int, unsigned, struct statx *) = dlsym(RTLD_NEXT, "statx");
    hang_path(path);
    hang_lookup(path);
    hang_metadata(path);
    hang_audit("stat", path && strstr(path, AUDIT) ? 1 : path && !*path && exists("HANG_AUDIT") && is_file(folder, AUDIT));
    return real(folder, path, flags, mask, found);
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
    hang_path(path);
    hang_audit("open", strstr(path, AUDIT) != NULL);
    int file = real(path, flags, mode);
    return file >= 0 && strcmp(path, "/proc/uptime") == 0 ? open_uptime(file) : file;
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
    hang_files(fd);
    hang_audit("write", exists("HANG_AUDIT") && is_file(fd, AUDIT));
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

/* Writes to the archive until the one that is torn; the number is in the file. */
static atomic_long archive_writes = 0;

static int is_killed_at_this_write(void) {
    long after = number_in("KILL_ARCHIVE");
    return after > 0 && atomic_fetch_add(&archive_writes, 1) + 1 == after;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    hang_files(fd);
    hang_archive(fd);
    if ((exists("FULL_STORE") && is_file(fd, STORE)) || (exists("FULL_ARCHIVE") && is_file(fd, ARCHIVE))) {
        errno = ENOSPC;
        return -1;
    }
    if (exists("KILL_ARCHIVE") && is_file(fd, ARCHIVE) && is_killed_at_this_write()) {
        real(fd, bytes, count / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return real(fd, bytes, count, offset);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    hang_while("HANG_NAMES");
    return real(node, service, hints, found);
}
