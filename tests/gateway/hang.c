/* Preloaded into the gateway: a disk and a name resolution that hang while a file exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void hang_while(const char *variable) {
    const char *file = getenv(variable);
    while (file && access(file, F_OK) == 0) usleep(10000);
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

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    hang_while("HANG_NAMES");
    return real(node, service, hints, found);
}
